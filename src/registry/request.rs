//! One request to a registry: its login, a renewed token, redirects.

use std::time::Duration;

use reqwest::blocking::{Body, Response};
use reqwest::header::{self, HeaderName};
use reqwest::{Method, StatusCode};

use super::Remote;
use super::credential::Credential;
use super::login::{Answer, Authorization, Challenge, Scope};
use super::refusal::{self, Explanation};
use crate::net::Address;
use crate::net::http::{Failure, asked_pause, innermost, passes, passing};
use crate::{Error, Kind, Result};

const REDIRECTS: usize = 5;
/// The most that a token server may answer, in bytes.
const TOKEN_LIMIT: u64 = 1 << 20;
/// A registry may take this many times `Patience::stall` to answer to the last byte of what it is sent:
/// it hashes, looks after what a manifest names, and may copy to a store of its own.
pub const ANSWER: u32 = 10;
/// How this program is known to token servers (OAuth2's `client_id`).
const CLIENT: &str = "assemble";

/// Makes a request's body, each time that it is sent.
pub type MakeBody<'a> = dyn Fn() -> Result<Body> + 'a;

pub struct Request<'a> {
    pub method: Method,
    pub address: Address,
    pub headers: Vec<(HeaderName, String)>,
    pub body: Option<&'a MakeBody<'a>>,
    /// For all of it, where it is not the usual one.
    pub timeout: Option<Duration>,
}

impl<'a> Request<'a> {
    pub fn new(method: Method, address: Address) -> Self {
        Self { method, address, headers: Vec::new(), body: None, timeout: None }
    }

    #[must_use]
    pub fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn reads(&self) -> bool {
        matches!(self.method, Method::GET | Method::HEAD)
    }

    #[must_use]
    pub fn body(mut self, body: &'a MakeBody<'a>) -> Self {
        self.body = Some(body);
        self
    }
}

/// An answer, and where it came from in the end.
pub struct Answered {
    pub response: Response,
    pub at: Address,
    /// The registry's host, where the answer is not its own.
    led_by: Option<String>,
    authorization: Option<Authorization>,
}

impl Answered {
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    pub fn refusal(self) -> Error {
        self.explained(|_| ()).0
    }

    /// The refusal, and what somebody reads in the registry's explanation of it.
    pub fn explained<T>(self, read: impl FnOnce(&Explanation) -> T) -> (Error, T) {
        let Self { response, at, led_by, authorization } = self;
        let status = response.status();
        let explanation = Explanation::read(response);
        let secret = authorization.as_ref().map_or("", Authorization::secret);
        let error = match &led_by {
            None => explanation.error(&at, status, &[secret]),
            Some(registry) => explanation.of_storage(registry, &at, status),
        };
        (error, read(&explanation))
    }

    /// Whether it refuses what this answer's HEAD asked, and may yet give it: a storage takes an address
    /// that was signed for GET by GET alone, and there are registries that let none but GET pass.
    pub fn refuses_head(&self) -> bool {
        let refuses = matches!(self.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        let lacks_head =
            matches!(self.status(), StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED);
        lacks_head || (refuses && (self.led_by.is_some() || self.authorization.is_some()))
    }

    /// An address that a registry made for one use, and that was not taken: the next one may be.
    fn is_stale(&self) -> bool {
        self.led_by.is_some() && self.status() == StatusCode::FORBIDDEN
    }
}

impl Remote<'_> {
    /// Sends a request with this repository's login. Answers that pass are failures already.
    pub(super) fn send(&self, request: &Request<'_>) -> Result<Answered, Failure> {
        self.send_for(request, &self.scope)
    }

    pub(super) fn send_for(&self, request: &Request<'_>, scope: &Scope) -> Result<Answered, Failure> {
        let ask = |realm: &Address, parameters: &[(&str, &str)], credential: Option<&Credential>| {
            self.ask_for_token(realm, parameters, credential)
        };
        let is_refused = |answered: &Answered| {
            answered.status() == StatusCode::UNAUTHORIZED && answered.at.same_origin(&self.base)
        };
        let renew = |answered: Answered, authorization: &mut Option<Authorization>| {
            let challenge = Challenge::of(answered.response.headers());
            let renewed = challenge.map(|challenge| {
                self.login.renew(&self.client.machine, challenge, authorization.as_ref(), scope, &ask)
            });
            match renewed.transpose()?.flatten() {
                None => Ok(answered),
                Some(renewed) => {
                    *authorization = Some(renewed);
                    self.follow(request, authorization.clone())
                }
            }
        };
        let mut authorization = self.login.authorization(scope, &ask)?;
        let mut answered = self.follow(request, authorization.clone())?;
        if is_refused(&answered) {
            answered = renew(answered, &mut authorization)?;
            let challenge = Challenge::of(answered.response.headers()).filter(|_| is_refused(&answered));
            if challenge.is_some_and(|challenge| self.login.widen(&challenge, scope)) {
                answered = renew(answered, &mut authorization)?;
            }
        }
        let status = answered.status();
        if passes(status) || (answered.is_stale() && request.method == Method::GET) {
            let pause = asked_pause(answered.response.headers());
            return Err(Failure::of_answer(status, pause, answered.refusal()));
        }
        Ok(answered)
    }

    /// Follows redirects; of what is sent, those that say to send the same again (307 and 308, RFC 9110,
    /// 15.4). The login stays behind at another origin.
    fn follow(
        &self,
        request: &Request<'_>,
        authorization: Option<Authorization>,
    ) -> Result<Answered, Failure> {
        let mut at = request.address.clone();
        for _ in 0..=REDIRECTS {
            let ours = at.same_origin(&self.base);
            let authorization = authorization.clone().filter(|_| ours);
            let response = self.exchange(request, &at, authorization.as_ref(), ours)?;
            let Some(next) = self.redirected(request, &response, &at)? else {
                let led_by = (!ours).then(|| self.base.host());
                return Ok(Answered { response, at, led_by, authorization });
            };
            at = next;
        }
        let error = Error::new(Kind::Network, format!("`{}` redirects in circles", request.address.host()));
        Err(error.detail(at).into())
    }

    /// Where an answer leads to, if it is to be followed.
    pub(super) fn redirected(
        &self,
        request: &Request<'_>,
        response: &Response,
        at: &Address,
    ) -> Result<Option<Address>> {
        let same = [StatusCode::TEMPORARY_REDIRECT, StatusCode::PERMANENT_REDIRECT];
        let moved = match response.status() {
            status if request.reads() => status.is_redirection(),
            status => same.contains(&status),
        };
        let Some(location) = response.headers().get(header::LOCATION).filter(|_| moved) else {
            return Ok(None);
        };
        let next = at.join(&String::from_utf8_lossy(location.as_bytes()))?;
        self.client.check_plain(at, &next)?;
        Ok(Some(next))
    }

    /// An answer to what [`Remote::send_once`] has sent.
    pub(super) fn answered(&self, response: Response, at: &Address) -> Answered {
        let led_by = (!at.same_origin(&self.base)).then(|| self.base.host());
        Answered { response, at: at.clone(), led_by, authorization: None }
    }

    /// Sends a request with this repository's login as it is known, and follows nothing.
    pub(super) fn send_once(&self, request: &Request<'_>) -> Result<Response, Failure> {
        let at = &request.address;
        let ours = at.same_origin(&self.base);
        let ask = |realm: &Address, parameters: &[(&str, &str)], credential: Option<&Credential>| {
            self.ask_for_token(realm, parameters, credential)
        };
        let authorization = self.login.authorization(&self.scope, &ask)?.filter(|_| ours);
        self.exchange(request, at, authorization.as_ref(), ours)
    }

    /// `known` as with [`Remote::http`].
    fn exchange(
        &self,
        request: &Request<'_>,
        at: &Address,
        authorization: Option<&Authorization>,
        known: bool,
    ) -> Result<Response, Failure> {
        // A login in an address that a registry sends is that registry's own business.
        let (url, _) = at.split();
        let http = self.http(at, known)?;
        let mut builder = http.request(request.method.clone(), url);
        builder = builder.header(header::ACCEPT_ENCODING, "identity");
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        if let Some(authorization) = authorization {
            builder = builder.header(header::AUTHORIZATION, authorization.header());
        }
        if let Some(timeout) = request.timeout {
            builder = builder.timeout(timeout);
        }
        if let Some(body) = request.body {
            builder = builder.body(body()?);
        }
        builder.send().map_err(|error| match own_failure(&error) {
            Some(error) => Failure::Lasting(error),
            None if error.is_body() => passing(refusal::broken_off(at, innermost(&error))),
            None => passing(http.unreachable(at, &error)),
        })
    }

    /// Asks a token server: with an identity token as OAuth2 has it, else as Docker's registry has it.
    fn ask_for_token(
        &self,
        realm: &Address,
        parameters: &[(&str, &str)],
        credential: Option<&Credential>,
    ) -> Result<Answer> {
        let registry = self.base.host();
        self.client.check_plain(&self.base, realm)?;
        let response = self.patience().run(|| {
            let response = match credential {
                Some(Credential::Identity(token)) => self.post_identity(realm, parameters, token)?,
                _ => self.get_token(realm, parameters, credential)?,
            };
            if !passes(response.status()) {
                return Ok(response);
            }
            let pause = asked_pause(response.headers());
            let error = Explanation::default().error(realm, response.status(), &[]);
            Err(Failure::of_answer(response.status(), pause, error))
        })?;
        let status = response.status();
        if !status.is_success() {
            let secrets = credential.map(Credential::secrets).unwrap_or_default();
            let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
            let what = match credential {
                Some(_) => format!("the login for `{registry}` is not taken"),
                None => format!("`{registry}` wants a login, and there is none"),
            };
            return Err(Explanation::read(response).error(realm, status, &secrets).within(what).hint(
                format!("`docker login {registry}` or `podman login {registry}` stores one, which is read"),
            ));
        }
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(response, TOKEN_LIMIT), &mut bytes)
            .map_err(|error| refusal::broken_off(realm, innermost(&error)))?;
        // The parser's own words may repeat what it read.
        serde_json::from_slice(&bytes).map_err(|_| {
            Error::new(Kind::Network, format!("`{}` answered with something else than a token", realm.host()))
                .detail(realm)
        })
    }

    fn get_token(
        &self,
        realm: &Address,
        parameters: &[(&str, &str)],
        credential: Option<&Credential>,
    ) -> Result<Response, Failure> {
        let mut address =
            parameters.iter().fold(realm.clone(), |at, (name, value)| at.with_query(name, value));
        if let Some(Credential::Password { user, .. }) = credential {
            address = address.with_query("account", user);
        }
        let basic = credential.and_then(Credential::basic);
        let login = basic.map(|basic| Authorization::new("Basic", &basic, &realm.host())).transpose()?;
        for _ in 0..=REDIRECTS {
            let known = address.same_origin(realm);
            let login = login.as_ref().filter(|_| known);
            let request = Request::new(Method::GET, address.clone());
            let response = self.exchange(&request, &address, login, known)?;
            let Some(location) =
                response.headers().get(header::LOCATION).filter(|_| response.status().is_redirection())
            else {
                return Ok(response);
            };
            let next = address.join(&String::from_utf8_lossy(location.as_bytes()))?;
            self.client.check_plain(&address, &next)?;
            address = next;
        }
        Err(Error::new(Kind::Network, format!("`{}` redirects in circles", realm.host())).into())
    }

    /// The token goes into the body, and so is never redirected.
    fn post_identity(
        &self,
        realm: &Address,
        parameters: &[(&str, &str)],
        token: &str,
    ) -> Result<Response, Failure> {
        let scopes: Vec<_> =
            parameters.iter().filter(|(name, _)| *name == "scope").map(|(_, value)| *value).collect();
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "refresh_token").append_pair("client_id", CLIENT);
        form.extend_pairs(parameters.iter().filter(|(name, _)| *name != "scope"));
        form.append_pair("scope", &scopes.join(" ")).append_pair("refresh_token", token);
        let form = form.finish();
        let body = || Ok(Body::from(form.clone()));
        let request = Request::new(Method::POST, realm.clone())
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(&body);
        self.exchange(&request, realm, None, true)
    }
}

/// The error of this program's own that a body's reader ended with.
fn own_failure(error: &reqwest::Error) -> Option<Error> {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(own) = error.downcast_ref::<Error>() {
            return Some(own.clone());
        }
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(own) = inner.and_then(|inner| inner.downcast_ref::<Error>()) {
            return Some(own.clone());
        }
        cause = error.source();
    }
    None
}
