//! What a plugin is asked to do.

use std::ops::Deref;
use std::path::{Path, PathBuf};

use weft_cni::{AttachmentId, CniArgs, Code, Failure, NetConf, NetworkResult, Verb};
use weft_model::Endpoint;
use weft_state::Root;

/// A call by a runtime.
#[derive(Clone, Debug)]
pub struct Call {
    /// What is asked for.
    pub verb: Verb,
    /// The network configuration.
    pub conf: NetConf,
    /// The network configuration as read, for delegates.
    pub stdin: Vec<u8>,
    /// Where delegates are looked for.
    pub paths: Vec<PathBuf>,
    /// Where our files are.
    pub root: Root,
    /// `CNI_ARGS`.
    pub args: String,
}

/// A call that is about one container's interface.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// What is to be connected, to what.
    pub endpoint: Endpoint,
    /// The container's namespace as given: on DEL it may be missing, or a path to nothing.
    pub netns: Option<PathBuf>,
    /// The rest of the call.
    pub call: Call,
}

impl Deref for Attachment {
    type Target = Call;

    fn deref(&self) -> &Call {
        &self.call
    }
}

impl Attachment {
    /// Returns the namespace, for verbs that cannot do without.
    ///
    /// # Errors
    ///
    /// Code 4 when none was given.
    pub fn required_netns(&self) -> Result<&Path, Failure> {
        let missing =
            || Failure::text(Code::InvalidEnvironment, "required env variables [CNI_NETNS] missing");
        self.netns.as_deref().ok_or_else(missing)
    }
}

impl Call {
    /// Returns what the plugins before this one made, for verbs that cannot do without.
    ///
    /// # Errors
    ///
    /// Code 7 when there is none, and those of reading it.
    pub fn required_prev_result(&self) -> Result<NetworkResult, Failure> {
        self.conf.required_prev_result()
    }

    /// Returns the attachments GC keeps.
    ///
    /// # Errors
    ///
    /// Code 7 when nobody said which.
    pub fn valid_attachments(&self) -> Result<&[AttachmentId], Failure> {
        self.conf.required_valid_attachments()
    }

    /// Reads `CNI_ARGS`.
    ///
    /// # Errors
    ///
    /// Code 4 for malformed pairs, and for keys not `known` unless the caller said to ignore them.
    pub fn cni_args(&self, known: &[&str]) -> Result<CniArgs, Failure> {
        CniArgs::parse(&self.args, known)
    }
}
