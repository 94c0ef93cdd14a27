"""Images that are loaded by name, or made of such images, and batches of them."""
