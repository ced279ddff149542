"""What computes a score: our kernels, OpenVINO, torch, or a stub. Each loads its library when it is opened."""
