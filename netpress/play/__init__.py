"""The playground: original and compressed network side by side in a browser, which decodes `.press` files itself."""
