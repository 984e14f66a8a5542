//! The feed as its proxies see it, over the metastore in memory.
