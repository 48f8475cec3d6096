"""Training a distance on judgments: the LightningModule and what a run needs beside it."""
