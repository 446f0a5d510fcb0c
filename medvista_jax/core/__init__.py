"""Types that every room shares. Imports nothing else of this package."""
