"""The Wan autoencoder, which several families of video models share: chunks, fused passes, peak memory."""
