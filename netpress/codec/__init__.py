"""Stored forms and entropy coders. numpy only: nothing here may import torch."""
