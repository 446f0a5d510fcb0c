"""Host tools: they run outside of the compiled program, behind the same spec as the image tools on the device."""
