//! Errors as clients see them.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;
use steadfast_access::Refused as CredentialsError;

use crate::{
    idempotency::ClaimError,
    subscription::{End, EndCode},
};

/// A response that says what is wrong and what to do.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
}

/// The seconds after which a request makes sense again that failed because of a state that passes.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
        }
    }

    /// The request can never be fulfilled as it is.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", message)
    }

    /// It may work later.
    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }

    /// A limit is reached.
    pub(super) fn limit(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "limit", message)
    }

    /// The body is too large.
    pub(super) fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "limit", message)
    }

    pub(super) fn unauthenticated(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", message)
    }

    pub(crate) fn denied(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "denied", message)
    }
}

impl From<End> for ApiError {
    fn from(end: End) -> Self {
        match end.code {
            EndCode::Denied => Self::denied(end.message),
            EndCode::Invalid => Self::invalid(end.message),
            EndCode::Limit => Self::limit(end.message),
            EndCode::Unavailable => Self::unavailable(end.message),
        }
    }
}

impl From<ClaimError> for ApiError {
    fn from(error: ClaimError) -> Self {
        let message = error.to_string();
        match error {
            ClaimError::TooMany | ClaimError::TooManyNew => Self::limit(message),
            ClaimError::AnotherBody => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message)
            }
        }
    }
}

impl From<CredentialsError> for ApiError {
    fn from(cause: CredentialsError) -> Self {
        tracing::debug!(%cause, "credentials refused");
        Self::unauthenticated(cause.public())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self {
            status,
            code,
            message,
        } = self;
        let body = json!({"error": {"code": code, "message": message}});
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        match status {
            StatusCode::UNAUTHORIZED => {
                let bearer = HeaderValue::from_static("Bearer");
                headers.insert(header::WWW_AUTHENTICATE, bearer);
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, RETRY_AFTER);
            }
            _ => {}
        }
        response
    }
}
