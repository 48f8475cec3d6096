"""Ask people: 2AFC and JND judgments collected in a browser, and exported as manifests."""
