"""MedXpertQA, multimodal."""
