//! The rights of those who read pages over HTTP, for as long as a response lasts.

use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use steadfast_access::Action;

use super::{
    AccessControl, Denied, FollowedPeer, PrincipalLimits, Principals, principals::TooManyCalls,
};
use crate::{KeyedPermit, Refusals, request_rate::retry_after};

/// The policy of a listener for pages.
#[derive(Clone, Debug)]
pub struct PageRights {
    access: AccessControl,
    principals: Principals,
    denials: Arc<Denials>,
}

/// The number of requests that were refused or cut, by reason.
#[derive(Debug, Default)]
struct Denials([AtomicU64; Denied::LABELS.len()]);

/// True if the peer of a request without a need for rights may read: an extension of that request.
#[derive(Clone, Copy, Debug)]
pub struct MayRead(pub bool);

/// The text for a peer without the right.
const FORBIDDEN: &str = "you may not see this page";

/// Resolves when a right ends; never with another value.
type Withdrawn = BoxFuture<'static, Result<Infallible, Denied>>;

/// The part of the right to a response that the response keeps.
struct Followed {
    withdrawn: Withdrawn,
    rights: PageRights,
    _permit: KeyedPermit,
}

pin_project! {
    /// A body that fails when the right to it ends.
    pub struct RightfulBody<B> {
        #[pin]
        body: B,
        followed: Option<Followed>,
    }
}

impl PageRights {
    /// Returns the rights by a policy. Requests beyond the limits of their principal are counted in `refusals`.
    #[must_use]
    pub fn new(access: AccessControl, limits: PrincipalLimits, refusals: Refusals) -> Self {
        Self {
            access,
            principals: Principals::new(limits, refusals),
            denials: Arc::default(),
        }
    }

    /// Responds to a request, if its peer may do what its page does: `action`, or nothing for a page that every
    /// probe may see. Such a request has the extension [`MayRead`]. The right is followed while the response is
    /// awaited, and while its body is sent.
    ///
    /// # Errors
    ///
    /// Returns the response to a peer whose credentials are refused, that lacks the right or loses it, or
    /// whose principal has too many requests.
    pub async fn serve<T, B, F>(
        &self,
        action: Option<Action>,
        mut request: Request<T>,
        respond: impl FnOnce(Request<T>) -> F,
    ) -> Result<Response<RightfulBody<B>>, Response<String>>
    where
        F: Future<Output = Response<B>>,
    {
        let (headers, extensions) = (request.headers(), request.extensions());
        let needed = action.unwrap_or(Action::Read);
        let known = self.access.require(headers, extensions, needed);
        let Some(action) = action else {
            request.extensions_mut().insert(MayRead(known.is_ok()));
            return Ok(RightfulBody::unfollowed(respond(request).await));
        };
        let Some(known) = known.map_err(|denied| self.deny(&denied))? else {
            return Ok(RightfulBody::unfollowed(respond(request).await));
        };
        let permit = self.principals.try_admit(&known);
        let permit = permit.map_err(too_many_requests)?;
        let Some(followed) = self.access.follow(known) else {
            return Ok(RightfulBody::unfollowed(respond(request).await));
        };
        let mut withdrawn: Withdrawn = Box::pin(until_withdrawn(followed, action));
        // Some pages take most of a minute to gather.
        let response = tokio::select! {
            biased;
            Err(denied) = &mut withdrawn => return Err(self.deny(&denied)),
            response = respond(request) => response,
        };
        Ok(response.map(|body| RightfulBody {
            body,
            followed: Some(Followed {
                withdrawn,
                rights: self.clone(),
                _permit: permit,
            }),
        }))
    }

    /// Returns the number of requests that were refused or cut, by reason.
    pub fn denials(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.denials.0.iter().map(|count| count.load(Relaxed));
        Denied::LABELS.into_iter().zip(counts)
    }

    fn count(&self, denied: &Denied) {
        let labels = Denied::LABELS.iter().zip(&self.denials.0);
        for (_, count) in labels.filter(|(label, _)| **label == denied.label()) {
            count.fetch_add(1, Relaxed);
        }
    }

    fn deny(&self, denied: &Denied) -> Response<String> {
        self.count(denied);
        denied.respond(FORBIDDEN)
    }
}

async fn until_withdrawn(mut followed: FollowedPeer, action: Action) -> Result<Infallible, Denied> {
    loop {
        followed.changed().await.map_err(Denied::Credentials)?;
        followed.peer().require(action)?;
    }
}

/// Returns the refusal of a request whose principal has too many.
fn too_many_requests(refused: TooManyCalls) -> Response<String> {
    let mut response = Response::new(format!("{refused}\n"));
    *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(header::CONTENT_TYPE, kind);
    if let Some(wait) = refused.wait() {
        headers.insert(header::RETRY_AFTER, retry_after(wait));
    }
    response
}

impl<B> RightfulBody<B> {
    /// Returns a response that anybody may see.
    fn unfollowed(response: Response<B>) -> Response<Self> {
        response.map(|body| Self {
            body,
            followed: None,
        })
    }
}

impl<B> fmt::Debug for RightfulBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("RightfulBody");
        shown.field("is_followed", &self.followed.is_some());
        shown.finish_non_exhaustive()
    }
}

impl<B> Body for RightfulBody<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.project();
        // First: what is ready after the end of the right is not sent any more.
        if let Some(followed) = this.followed
            && let Poll::Ready(Err(denied)) = followed.withdrawn.poll_unpin(cx)
        {
            followed.rights.count(&denied);
            let text = denied.text(FORBIDDEN).to_owned();
            *this.followed = None;
            return Poll::Ready(Some(Err(text.into())));
        }
        let frame = this.body.poll_frame(cx);
        frame.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
