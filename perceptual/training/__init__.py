"""Training a distance on judgments: the LightningModule and what a run needs around it."""
