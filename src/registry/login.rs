//! What a registry asks for before it answers, and what was got to satisfy it.
//!
//! Sources: RFC 9110, 11.6.1 (`WWW-Authenticate`); distribution, "Token Authentication
//! Specification", "Token Scope Documentation" and "OAuth2 Token Authentication".

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;

use super::Access;
use super::credential::{self, Credential};
use crate::net::{Address, Machine};
use crate::oci::Repository;
use crate::{Error, Kind, Result};

/// How long a token lives where its server does not say (distribution's specification).
const LIFETIME: u64 = 60;
/// A token is renewed when it has this much left, or a quarter of its life.
const MARGIN: Duration = Duration::from_secs(10);

/// What a request needs: `repository:team/image:pull,push`, and maybe more than one of them.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Scope(BTreeSet<String>);

impl Scope {
    pub fn of(path: &str, access: Access) -> Self {
        let actions = match access {
            Access::Pull => "pull",
            Access::Push => "pull,push",
        };
        Self([format!("repository:{path}:{actions}")].into())
    }

    #[must_use]
    pub fn and(&self, other: Self) -> Self {
        Self(self.0.union(&other.0).cloned().collect())
    }

    fn covers(&self, other: &Self) -> bool {
        other.0.is_subset(&self.0)
    }

    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

/// How a registry wants to be told who asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Scheme {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

/// What a 401 asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Challenge {
    scheme: Scheme,
    /// What a token is to be good for, in the registry's own words. A registry that stands before another
    /// one may know a repository by another path than its clients.
    scope: Scope,
}

impl Challenge {
    /// The one to answer among those of a 401: a token before a password.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let values = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let offers: Vec<_> = values.flat_map(parse).collect();
        let bearer = offers.iter().filter(|(scheme, _)| scheme == "bearer").find_map(|(_, parameters)| {
            let service = parameters.get("service").cloned();
            let scheme = Scheme::Bearer { realm: parameters.get("realm")?.clone(), service };
            let scope = parameters.get("scope").map_or("", String::as_str);
            Some(Self { scheme, scope: Scope(scope.split_whitespace().map(str::to_owned).collect()) })
        });
        let basic = || Self { scheme: Scheme::Basic, scope: Scope::default() };
        bearer.or_else(|| offers.iter().any(|(scheme, _)| scheme == "basic").then(basic))
    }
}

/// What a header of a registry asks for: for `fuzzing`.
pub(crate) fn challenge(header: &[u8]) -> Option<Challenge> {
    let header = HeaderValue::from_bytes(header).ok()?;
    Challenge::of(&HeaderMap::from_iter([(WWW_AUTHENTICATE, header)]))
}

type Offer = (String, BTreeMap<String, String>);

/// `Bearer realm="…",service="…", Basic realm="…"`; names in lower case.
fn parse(header: &str) -> Vec<Offer> {
    let mut offers: Vec<Offer> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (name, tail) = rest.split_at(end);
        if name.is_empty() {
            return offers;
        }
        match tail.strip_prefix('=') {
            Some(tail) => {
                let (value, tail) = value(tail);
                if let Some((_, parameters)) = offers.last_mut() {
                    parameters.insert(name.to_ascii_lowercase(), value);
                }
                rest = tail;
            }
            None => {
                offers.push((name.to_ascii_lowercase(), BTreeMap::new()));
                rest = tail;
            }
        }
    }
}

/// A token or a quoted text, and what comes after it.
fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let (mut value, mut escaped) = (String::new(), false);
    for (at, character) in quoted.char_indices() {
        match character {
            '"' if !escaped => return (value, &quoted[at + 1..]),
            '\\' if !escaped => escaped = true,
            other => {
                value.push(other);
                escaped = false;
            }
        }
    }
    (value, "")
}

/// What is written after `Authorization:`; it compares, and never shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Authorization(HeaderValue);

impl Authorization {
    /// # Errors
    /// A secret that no header can hold.
    pub fn new(scheme: &str, secret: &str, registry: &str) -> Result<Self> {
        let mut value = HeaderValue::from_str(&format!("{scheme} {secret}")).map_err(|_| {
            Error::new(Kind::Network, format!("what `{registry}` gives as a login fits into no header"))
        })?;
        value.set_sensitive(true);
        Ok(Self(value))
    }

    pub fn header(&self) -> HeaderValue {
        self.0.clone()
    }

    /// What no message may repeat.
    pub fn secret(&self) -> &str {
        let text = self.0.to_str().unwrap_or_default();
        text.split_once(' ').map_or(text, |(_, secret)| secret)
    }
}

/// The answer of a token server.
#[derive(Deserialize)]
pub struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    /// Seconds. There are servers that write it as a text, or -1 for a token that lives for ever: what is
    /// no number of seconds is as good as nothing, for a token that has ended is renewed in any case.
    expires_in: Option<serde_json::Value>,
}

impl Answer {
    fn lifetime(&self) -> Duration {
        let said = self.expires_in.as_ref().and_then(|it| it.as_u64().or_else(|| it.as_str()?.parse().ok()));
        Duration::from_secs(said.unwrap_or(LIFETIME).clamp(1, 1_000_000))
    }
}

struct Token {
    authorization: Authorization,
    renewal: Instant,
}

/// The state of one repository: logins may be for it alone. Its lock is held while a token is got, so
/// that requests that run at once get one token together.
pub struct Login {
    repository: Repository,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    scheme: Option<Scheme>,
    /// What the registry wants a token to be good for beside what was asked for.
    wider: Scope,
    /// `None` until somebody has looked.
    credential: Option<Option<Credential>>,
    tokens: HashMap<Scope, Token>,
}

/// Asks a token server: the realm, the parameters, and the login if there is one.
pub type Ask<'a> = dyn Fn(&Address, &[(&str, &str)], Option<&Credential>) -> Result<Answer> + 'a;

impl Login {
    pub fn new(repository: Repository) -> Self {
        Self { repository, state: Mutex::default() }
    }

    fn registry(&self) -> &str {
        self.repository.registry()
    }

    /// What to send along, as far as the registry has said what it wants: at first nothing.
    pub fn authorization(&self, scope: &Scope, ask: &Ask<'_>) -> Result<Option<Authorization>> {
        let mut state = self.lock();
        match &state.scheme {
            None => Ok(None),
            Some(Scheme::Basic) => self.basic(&state),
            Some(Scheme::Bearer { .. }) => self.token(&mut state, scope, ask).map(Some),
        }
    }

    /// After a 401 to a request that was sent with `used`: what to send instead. `None` if there is
    /// nothing better.
    pub fn renew(
        &self,
        machine: &Machine,
        challenge: Challenge,
        used: Option<&Authorization>,
        scope: &Scope,
        ask: &Ask<'_>,
    ) -> Result<Option<Authorization>> {
        let mut state = self.lock();
        if state.credential.is_none() {
            state.credential = Some(credential::find(machine, &self.repository)?);
        }
        if state.scheme.as_ref() != Some(&challenge.scheme) {
            state.tokens.clear();
            state.scheme = Some(challenge.scheme.clone());
        }
        match challenge.scheme {
            Scheme::Basic => Ok(self.basic(&state)?.filter(|new| Some(new) != used)),
            Scheme::Bearer { .. } => {
                // Another thread may have renewed it since.
                if state.tokens.get(scope).is_some_and(|token| Some(&token.authorization) == used) {
                    state.tokens.remove(scope);
                }
                self.token(&mut state, scope, ask).map(Some)
            }
        }
    }

    /// After a 401 to a new token: whether the registry wants one that is good for more than was asked for.
    /// From now on that is asked for, too.
    pub fn widen(&self, challenge: &Challenge, scope: &Scope) -> bool {
        let mut state = self.lock();
        let enough = scope.covers(&challenge.scope) || state.wider.covers(&challenge.scope);
        state.wider = state.wider.and(challenge.scope.clone());
        !enough
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn basic(&self, state: &State) -> Result<Option<Authorization>> {
        let basic = state.credential.iter().flatten().find_map(Credential::basic);
        basic.map(|basic| Authorization::new("Basic", &basic, self.registry())).transpose()
    }

    fn token(&self, state: &mut State, scope: &Scope, ask: &Ask<'_>) -> Result<Authorization> {
        if let Some(token) = state.tokens.get(scope).filter(|token| token.renewal > Instant::now()) {
            return Ok(token.authorization.clone());
        }
        let credential = state.credential.iter().flatten().next();
        if let Some(Credential::Bearer(token)) = credential {
            return Authorization::new("Bearer", token, self.registry());
        }
        let Some(Scheme::Bearer { realm, service }) = &state.scheme else {
            return Err(Error::new(Kind::Internal, "a token without a challenge"));
        };
        let realm = Address::parse(realm).map_err(|error| error.within(self.bad_realm()))?;
        let mut parameters: Vec<(&str, &str)> = Vec::new();
        parameters.extend(service.as_deref().map(|service| ("service", service)));
        let wanted = scope.and(state.wider.clone());
        parameters.extend(wanted.parts().map(|part| ("scope", part)));
        let asked = Instant::now();
        let answer = ask(&realm, &parameters, credential)?;
        let lifetime = answer.lifetime();
        let text = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
        let text = text.ok_or_else(|| {
            Error::new(Kind::Network, format!("`{}` answered without a token", realm.host()))
                .detail(format!("it is the token server of `{}`", self.registry()))
        })?;
        let renewal = asked + (lifetime - MARGIN.min(lifetime / 4));
        let authorization = Authorization::new("Bearer", &text, self.registry())?;
        let token = Token { authorization: authorization.clone(), renewal };
        state.tokens.insert(scope.clone(), token);
        Ok(authorization)
    }

    fn bad_realm(&self) -> String {
        format!("`{}` names no token server that can be asked", self.registry())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        Challenge::of(&headers)
    }

    #[test]
    fn challenges_are_read_as_they_come() {
        let bearer = Challenge {
            scheme: Scheme::Bearer {
                realm: "https://auth.example/token?x=1,2".to_owned(),
                service: Some("a \"b\"".to_owned()),
            },
            scope: Scope(["x:y:pull,push".to_owned()].into()),
        };
        let basic = Challenge { scheme: Scheme::Basic, scope: Scope::default() };
        let text =
            r#"Bearer realm="https://auth.example/token?x=1,2",service="a \"b\"",scope="x:y:pull,push""#;
        assert_eq!(challenge(&[text]), Some(bearer.clone()));
        assert_eq!(
            challenge(&["Basic realm=\"x\"", &text.replace("Bearer", "bearer")]),
            Some(bearer.clone())
        );
        assert_eq!(challenge(&[&format!("Basic realm=x, {text}")]), Some(bearer));
        assert_eq!(challenge(&["basic"]), Some(basic));
        for text in ["Negotiate", "Bearer service=\"x\"", "=", "\"", "Bearer realm"] {
            assert_eq!(challenge(&[text]), None, "{text}");
        }
    }

    #[test]
    fn a_token_lives_as_long_as_its_server_says() {
        let cases =
            [("300", 300), ("\"300\"", 300), ("0", 1), ("-1", 60), ("null", 60), ("3.5", 60), ("{}", 60)];
        for (said, seconds) in cases {
            let answer: Answer = serde_json::from_str(&format!(r#"{{"expires_in":{said}}}"#)).unwrap();
            assert_eq!(answer.lifetime(), Duration::from_secs(seconds), "{said}");
        }
        let answer: Answer = serde_json::from_str("{}").unwrap();
        assert_eq!(answer.lifetime(), Duration::from_secs(LIFETIME));
    }

    #[test]
    fn a_scope_is_a_set() {
        let one = Scope::of("a/b", Access::Push);
        let both = one.and(Scope::of("c", Access::Pull)).and(Scope::of("c", Access::Pull));
        assert_eq!(both.parts().collect::<Vec<_>>(), ["repository:a/b:pull,push", "repository:c:pull"]);
    }
}
