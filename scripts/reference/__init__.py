"""PyTorch twins of the C++ models and data code, written from the same description; the goldens of the tests come from
here."""
