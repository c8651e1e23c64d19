"""Benches: every op, training step and loader against plain torch; checked before it is timed, kept as a record.

pytest bench --benchmark                        all ops, small steps, loaders
pytest bench --benchmark -k instance_norm       one op
pytest bench --benchmark -m compile             the steps beside torch.compile, which compiles first
pytest bench --benchmark --benchmark-full       all shapes and sizes, and the trainings in bf16: long
python -m bench.report RECORD... --plots docs   tables and plots of records
python -m bench.report --update PAGE.md         a page that quotes records
python -m bench.experiments                     what the recipes learn
"""
