"""Programs for TPUs compiled without a TPU."""
