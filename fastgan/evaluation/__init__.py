"""What trained networks do and how good it is: translating images, latent codes, and figures."""
