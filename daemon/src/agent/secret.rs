//! The secret that all hosts of a cluster have, and the store does not.

use std::path::Path;

use weft_manager::Kind;
use weft_manager::overlay::protocol::Refusal;
use weft_overlay::ClusterId;
use weft_overlay::ids::PublicKey;
use weft_overlay::records::Cluster;
use weft_state::Root;
use weft_tunnel::ClusterSecret;
use weft_tunnel::keys::KeyError;

/// Reads the secret that somebody brought, if they did.
pub(crate) fn brought(file: Option<&Path>) -> Result<Option<ClusterSecret>, Refusal> {
    file.map(|file| ClusterSecret::read(file).map_err(refused)).transpose()
}

/// Returns the secret that this host has from before.
pub(crate) fn kept(root: &Root) -> Result<Option<ClusterSecret>, Refusal> {
    ClusterSecret::load(root).map_err(refused)
}

/// Returns the secret of a cluster that is being made.
pub(crate) fn made(brought: Option<ClusterSecret>) -> Result<ClusterSecret, Refusal> {
    brought.map_or_else(|| ClusterSecret::random().map_err(refused), Ok)
}

/// Returns what the cluster's record tells of the secret: enough to know it by, and no more. It is the public key of
/// the pair secret of two hosts that do not exist.
pub(crate) fn proof(secret: &ClusterSecret, cluster: ClusterId) -> PublicKey {
    let mut id = [0xff; 32];
    id[..16].copy_from_slice(cluster.bytes());
    secret.of_pair(&PublicKey([0; 32]), &PublicKey(id)).public()
}

/// Refuses a secret that is not the cluster's. Without one a host has no part in encrypted networks, and may join.
pub(crate) fn check(cluster: &Cluster, secret: Option<&ClusterSecret>) -> Result<(), Refusal> {
    let (Some(expected), Some(secret)) = (cluster.secret_proof, secret) else { return Ok(()) };
    if proof(secret, cluster.id) == expected {
        return Ok(());
    }
    let why = format!("the hosts of cluster {} have another secret", cluster.id);
    Err(Refusal::new(Kind::Failed, why).hint(
        "copy /var/lib/weft/overlay/keys/cluster.secret from a host that has joined, and give it with --secret",
    ))
}

/// Keeps the secret on this host; without one, what an earlier membership had goes.
pub(crate) fn keep(root: &Root, secret: Option<&ClusterSecret>) -> Result<(), Refusal> {
    match secret {
        Some(secret) => secret.keep(root).map_err(refused),
        None => {
            let file = ClusterSecret::file(root);
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(Refusal::new(Kind::Failed, format!("{}: {error}", file.display())))
                }
                _ => Ok(()),
            }
        }
    }
}

fn refused(error: KeyError) -> Refusal {
    let hint = error.hint();
    Refusal { hint, ..Refusal::new(Kind::Failed, error) }
}
