//! What the agent is asked for, one verb a file.

pub(crate) mod forget;
pub(crate) mod join;
pub(crate) mod leave;
pub(crate) mod networks;

use std::rc::Rc;

use weft_manager::overlay::protocol::Request;

use super::agent::Agent;
use super::kernel::Kernel;
use super::socket::Call;
use super::{diag, mesh, metrics, round, status};

/// Does what was asked for, and answers.
pub(crate) async fn answer(agent: Rc<Agent>, kernel: Rc<Kernel>, call: Call) {
    let Call { request, reply } = call;
    match request {
        Request::Status => reply.answer(Ok(status::with_the_kernels(&agent, &kernel).await)),
        Request::Metrics => reply.answer(Ok(metrics::text(&agent))),
        Request::Peers => {
            let mut peers = status::peers(&agent);
            mesh::fill(&agent, &mut peers).await;
            reply.answer(Ok(peers));
        }
        Request::Blocks { network } => reply.answer(status::blocks(&agent, &network)),
        Request::Verify => reply.answer(round::verify(&agent, &kernel).await),
        Request::Diag { address, network } => {
            reply.answer(diag::walk(&agent, &kernel, address, network).await);
        }
        Request::Apply => reply.answer(round::asked(&agent, &kernel).await),
        Request::Join(join) => reply.answer(join::join(&agent, *join, &reply).await),
        Request::Leave(leave) => reply.answer(leave::leave(&agent, &leave, &reply).await),
        Request::Forget(forget) => reply.answer(forget::forget(&agent, &forget).await),
        Request::Rotate => reply.answer(mesh::rotate(&agent).await),
        Request::Create(network) => reply.answer(networks::create(&agent, *network, &reply).await),
        Request::Remove { network, force } => {
            reply.answer(networks::remove(&agent, &network, force, &reply).await);
        }
        Request::Borrow { network, addresses, container } => {
            reply.answer(networks::borrow(&agent, &network, &addresses, &container).await);
        }
        Request::NeedBlock { network } => reply.answer(networks::need_block(&agent, &network).await),
    }
}
