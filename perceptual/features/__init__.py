"""Images → feature maps: backbones, the networks they are made of, and where weights come from."""
