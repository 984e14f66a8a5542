//! The coordinator's configuration: a TOML file, then `MAIA_…` environment variables. Checked as a
//! whole before any port opens; unknown keys are errors; an error names the file and the line.
//! Plain data: whoever uses a value gets it handed in.
//!
//! `MAIA_ELECTION__HEARTBEAT=100ms` sets `election.heartbeat`: two underscores stand for the dot.

mod load;
mod sections;

pub use load::{ConfigError, load, parse, set};
pub use sections::{
    Auth, Bootstrap, Config, Election, ElectionSection, Failover, Groups, InitialNode,
    InitialRegion, Listen, NodeSection, Preset, Replication, Scope, Storage, Token, is_public_url,
};

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
dir = "d"
cluster_key_file = "k"
preset = "lan"
[node]
id = 1
region = "us-west-1"
[listen]
api = "127.0.0.1:7001"
rpc = "127.0.0.1:7002"
[rpc]
plaintext = true
[[bootstrap.regions]]
name = "us-west-1"
public_url = "http://127.0.0.1:7000"
[[bootstrap.nodes]]
id = 1
region = "us-west-1"
rpc_addr = "127.0.0.1:7002"
api_url = "http://127.0.0.1:7001"
[[auth.tokens]]
name = "admin"
blake3 = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
scopes = ["read", "data", "admin"]
"#;

    #[test]
    fn a_good_file_is_read_with_the_numbers_of_its_preset() {
        let config = parse(GOOD, "c.toml").unwrap();
        assert_eq!(config.election().heartbeat.as_millis(), 50);
        let text = toml::to_string(&config).unwrap();
        assert_eq!(parse(&text, "again").unwrap(), config);
    }

    #[test]
    fn an_error_names_file_and_line() {
        let bad = GOOD.replace("preset = \"lan\"", "presett = \"lan\"");
        let error = parse(&bad, "c.toml").unwrap_err().to_string();
        assert!(
            error.starts_with("c.toml:4: ") && error.contains("presett"),
            "{error}"
        );
        let bad = GOOD.replace("id = 1\nregion", "id = 0\nregion");
        let error = parse(&bad, "c.toml").unwrap_err().to_string();
        assert!(error.starts_with("c.toml:6: node.id"), "{error}");
        let bad = GOOD.replace("http://127.0.0.1:7000", "ftp://127.0.0.1:7000");
        let error = parse(&bad, "c.toml").unwrap_err().to_string();
        assert!(
            error.starts_with("c.toml:15: bootstrap.regions.public_url"),
            "{error}"
        );
    }

    #[test]
    fn nothing_is_in_the_clear_unless_it_says_so() {
        let silent = GOOD.replace("plaintext = true\n", "");
        let error = parse(&silent, "c.toml").unwrap_err().to_string();
        assert!(error.contains("rpc.ca_file: is missing"), "{error}");
    }

    #[test]
    fn a_file_for_tls_that_is_missing_is_named_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        let files = "ca_file = \"/nowhere/ca.pem\"\ncertificate_file = \"c\"\nkey_file = \"k\"";
        std::fs::write(&path, GOOD.replace("plaintext = true", files)).unwrap();
        let error = load(&path, std::iter::empty()).unwrap_err().to_string();
        let place = format!("{}:12: rpc.ca_file: /nowhere/ca.pem: ", path.display());
        assert!(error.starts_with(&place), "{error}");
    }

    #[test]
    fn a_key_is_set_by_its_dotted_name() {
        let mut table: toml::Table = GOOD.parse().unwrap();
        set(&mut table, "election.heartbeat", "70ms");
        set(&mut table, "node.id", "1");
        let config = parse(&toml::to_string(&table).unwrap(), "c").unwrap();
        assert_eq!(config.election().heartbeat.as_millis(), 70);
    }

    #[test]
    fn logs_that_keep_nothing_are_refused() {
        for (key, value) in [("retention_bytes", "0"), ("retention_age", "0s")] {
            let mut table: toml::Table = GOOD.parse().unwrap();
            set(&mut table, &format!("replication.{key}"), value);
            let read = parse(&toml::to_string(&table).unwrap(), "c");
            let error = read.unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn timeouts_that_can_not_work_are_refused() {
        let mut table: toml::Table = GOOD.parse().unwrap();
        set(&mut table, "election.heartbeat", "400ms");
        let error = parse(&toml::to_string(&table).unwrap(), "c")
            .unwrap_err()
            .to_string();
        assert!(error.contains("election.timeout_min"), "{error}");
    }
}
