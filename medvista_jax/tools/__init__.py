"""Image tools: a spec beside a pure kernel, one file a tool."""
