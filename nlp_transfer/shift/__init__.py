"""The report before training: how far apart two domains are, and what that means."""
