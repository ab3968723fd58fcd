//! What only the MongoDB driver knows.

use mongodb::options::{ConnectionString, HostInfo, ServerAddress};

/// See [`super::hosts`].
pub fn hosts(uri: &str) -> Result<Vec<String>, &'static str> {
    let parsed = ConnectionString::parse(uri).map_err(|_| super::RULE)?;
    Ok(match parsed.host_info {
        HostInfo::HostIdentifiers(hosts) => hosts.iter().map(host).collect(),
        HostInfo::DnsRecord(name) => vec![name],
        // The driver may learn of other kinds; none of them is a secret, and none can be named yet.
        _ => Vec::new(),
    })
}

fn host(address: &ServerAddress) -> String {
    match address {
        ServerAddress::Tcp { host, port } => format!("{host}:{}", port.unwrap_or(27017)),
        other => other.to_string(),
    }
}
