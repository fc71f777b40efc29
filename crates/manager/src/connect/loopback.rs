//! The container's own loopback interface.
//!
//! DOCKER: containers have one that is up; in a namespace made by hand it is down.

use serde_json::json;
use weft_cni::Conflist;
use weft_model::IfName;
use weft_runtime::{Ahead, Attachment, CallError, ChainError};

use crate::namespace::Container;
use crate::{Error, Manager};

/// A loopback interface to be raised. Dropping it leaves the interface as it is.
pub(super) struct Loopback {
    list: Conflist,
    attachment: Attachment,
    ahead: Ahead,
}

impl Manager {
    /// Gets ready to raise the container's loopback interface: its plugin starts while that of `network` works.
    pub(super) fn loopback(&self, container: &Container, network: &Conflist) -> Result<Loopback, Error> {
        let list = json!({"cniVersion": "1.1.0", "name": "weft-loopback", "plugins": [{"type": "loopback"}]});
        let list = Conflist::parse(list.to_string().as_bytes())
            .map_err(|failure| Error::Refused { kind: "loopback".into(), failure })?;
        let attachment =
            Attachment::new(container.id.clone(), Some(container.path.clone()), IfName::loopback());
        let ahead = self.runtime.ahead(&list, &attachment, network);
        Ok(Loopback { list, attachment, ahead })
    }

    /// Raises the interface, if there is a plugin for it. This comes last: nobody could tell afterwards whether it had been
    /// up before, so what fails then must not leave it behind.
    pub(super) fn raise(&self, loopback: Loopback) -> Result<(), Error> {
        let Loopback { list, attachment, ahead } = loopback;
        match self.runtime.raise(&list, &attachment, ahead) {
            Err(ChainError::Plugin { problem, .. }) if matches!(problem.cause, CallError::Missing(_)) => {
                Ok(())
            }
            outcome => Ok(outcome.map(drop)?),
        }
    }
}
