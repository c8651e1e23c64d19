"""What the commands share: flags, exit codes, errors, and the pictures that they write."""
