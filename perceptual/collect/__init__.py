"""Ask people: 2AFC, JND and odd-one-out judgments collected in a browser, and exported as manifests."""
