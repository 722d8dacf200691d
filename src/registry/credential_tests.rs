use super::*;

/// What is found for a repository, where these files and variables are.
fn of(files: &[(&str, &str)], variables: &[(&str, &str)], repository: &str) -> Result<Option<Credential>> {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, text).unwrap();
    }
    let machine = Machine::new(root.path(), variables.iter().copied()).in_folder("/work");
    find(&machine, &repository.parse().unwrap())
}

fn found(json: &str, repository: &str) -> Result<Option<Credential>> {
    of(&[("docker/config.json", json)], &[("DOCKER_CONFIG", "/docker")], repository)
}

fn user(found: Result<Option<Credential>>) -> Option<String> {
    match found.unwrap()? {
        Credential::Password { user, .. } => Some(user),
        _ => panic!("a token"),
    }
}

fn password(json: &str, repository: &str) -> Option<(String, String)> {
    match found(json, repository).unwrap()? {
        Credential::Password { user, password } => Some((user, password)),
        _ => panic!("a token"),
    }
}

/// A file of logins; the name of each user is told.
fn logins(entries: &[(&str, &str)]) -> String {
    let auths: serde_json::Map<_, _> = entries
        .iter()
        .map(|(key, user)| {
            ((*key).to_owned(), serde_json::json!({ "auth": STANDARD.encode(format!("{user}:secret")) }))
        })
        .collect();
    serde_json::json!({ "auths": auths }).to_string()
}

#[test]
fn a_registry_is_found_however_it_is_written() {
    let auth = STANDARD.encode("me:se:cret");
    for key in ["r.example:5000", "https://r.example:5000", "https://r.example:5000/v2/", "r.example:5000/"] {
        let json = format!(r#"{{"auths":{{"other":{{}},"{key}":{{"auth":"{auth}"}}}},"more":1}}"#);
        assert_eq!(password(&json, "r.example:5000/a"), Some(("me".into(), "se:cret".into())), "{key}");
        assert_eq!(password(&json, "r.example/a"), None);
    }
    for key in ["https://index.docker.io/v1/", "docker.io", "registry-1.docker.io"] {
        let json = format!(r#"{{"auths":{{"{key}":{{"username":"me","password":"secret"}}}}}}"#);
        assert_eq!(password(&json, "docker.io/a"), Some(("me".into(), "secret".into())), "{key}");
        assert_eq!(password(&json, "a/b"), Some(("me".into(), "secret".into())), "{key}");
    }
}

#[test]
fn the_longest_name_counts() {
    let json = logins(&[
        ("r.example", "host"),
        ("r.example/team", "team"),
        ("r.example/team/app", "app"),
        ("r.example/team/app-two", "two"),
        ("https://r.example/other/", "address"),
        ("docker.io/library", "official"),
        ("docker.io/library/python", "python"),
        ("https://index.docker.io/v1/", "docker"),
    ]);
    for (repository, expected) in [
        ("r.example/team/app", "app"),
        ("r.example/team/app/below", "app"),
        ("r.example/team/app-two", "two"),
        ("r.example/team/app-three", "team"),
        ("r.example/teams", "host"),
        ("r.example/other", "host"),
        ("python", "python"),
        ("docker.io/library/debian", "official"),
        ("me/debian", "docker"),
    ] {
        assert_eq!(user(found(&json, repository)).as_deref(), Some(expected), "{repository}");
    }
    // Those for repositories alone are for no other.
    let json = logins(&[("r.example/team", "team"), ("r.example:5000/team", "port")]);
    assert_eq!(user(found(&json, "r.example/other")), None);
    assert_eq!(user(found(&json, "r.example:5000/team/a")).as_deref(), Some("port"));
}

/// A helper knows registries alone, so that an entry for a repository goes before it.
#[test]
fn a_name_goes_before_a_helper() {
    let mut json: serde_json::Value = serde_json::from_str(&logins(&[("r.example/team", "team")])).unwrap();
    json["credsStore"] = "surely-not-there".into();
    assert_eq!(user(found(&json.to_string(), "r.example/team/app")).as_deref(), Some("team"));
    assert!(found(&json.to_string(), "r.example/app").is_err());
}

#[test]
fn podman_s_files_are_asked_too() {
    let file = |user| logins(&[("r.example", user)]);
    let (docker, runtime, home, named) = (file("docker"), file("runtime"), file("home"), file("named"));
    let files = [
        ("home/me/.docker/config.json", &*docker),
        ("run/user/7/containers/auth.json", &*runtime),
        ("home/me/.config/containers/auth.json", &*home),
        ("work/mine.json", &*named),
    ];
    let variables = [("HOME", "/home/me"), ("XDG_RUNTIME_DIR", "/run/user/7")];
    let ask = |files: &[(&str, &str)], more: &[(&str, &str)]| {
        let variables: Vec<_> = variables.iter().chain(more).copied().collect();
        user(of(files, &variables, "r.example/a"))
    };
    assert_eq!(ask(&files, &[]).as_deref(), Some("docker"));
    assert_eq!(ask(&files[1..], &[]).as_deref(), Some("runtime"));
    assert_eq!(ask(&files[2..], &[]).as_deref(), Some("home"));
    assert_eq!(ask(&files[2..], &[("XDG_CONFIG_HOME", "/elsewhere")]), None);
    // The one that is named goes before all, and stands for podman's own.
    for path in ["mine.json", "/work/mine.json"] {
        assert_eq!(ask(&files, &[("REGISTRY_AUTH_FILE", path)]).as_deref(), Some("named"));
    }
    let other = logins(&[("other.example", "other")]);
    let files = [("work/mine.json", &*other), files[0], files[1]];
    assert_eq!(ask(&files, &[("REGISTRY_AUTH_FILE", "mine.json")]).as_deref(), Some("docker"));
    assert_eq!(ask(&[files[0], files[2]], &[("REGISTRY_AUTH_FILE", "mine.json")]), None);
    let missing = of(&[], &[("REGISTRY_AUTH_FILE", "mine.json")], "r.example/a").err().unwrap();
    assert!(missing.to_string().contains("REGISTRY_AUTH_FILE"), "{missing}");
}

#[test]
fn a_relative_folder_of_docker_s_counts() {
    let json = logins(&[("r.example", "me")]);
    for folder in ["docker", "./docker", "/work/docker"] {
        let found = of(&[("work/docker/config.json", &json)], &[("DOCKER_CONFIG", folder)], "r.example/a");
        assert_eq!(user(found).as_deref(), Some("me"), "{folder}");
    }
}

#[test]
fn tokens_come_before_passwords() {
    let entry = r#"{"auths":{"r.example":{"auth":"bWU6","identitytoken":"secret"}}}"#;
    assert!(
        matches!(found(entry, "r.example/a"), Ok(Some(Credential::Identity(token))) if token == "secret")
    );
    let entry = r#"{"auths":{"r.example":{"registrytoken":"secret"}}}"#;
    assert!(matches!(found(entry, "r.example/a"), Ok(Some(Credential::Bearer(token))) if token == "secret"));
}

#[test]
fn what_cannot_be_read_is_not_repeated() {
    for json in [r#"{"auths":{"r.example":{"auth":"secret!"}}}"#, r#"{"auths":"secret"}"#, "secret"] {
        let error = found(json, "r.example/a").err().unwrap();
        assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
    }
    let error = found(r#"{"credsStore":"../x"}"#, "r.example/a").err().unwrap();
    assert_eq!(error.kind(), Kind::Machine);
    let error = found(r#"{"credsStore":"surely-not-there"}"#, "r.example/a").err().unwrap();
    assert!(error.to_string().contains("docker-credential-surely-not-there"), "{error}");
}

#[test]
fn a_file_that_cannot_be_read_is_said() {
    // A folder in its place cannot be read by root either.
    let error = of(&[("docker/config.json/x", "")], &[("DOCKER_CONFIG", "/docker")], "r.example/a");
    let error = error.err().unwrap();
    assert!(error.kind() == Kind::Input && error.to_string().contains("/docker/config.json"), "{error}");
    let auth = [("run/containers/auth.json", "{")];
    let error = of(&auth, &[("XDG_RUNTIME_DIR", "/run")], "r.example/a").err().unwrap();
    assert!(error.to_string().contains("line 1"), "{error}");
}

#[test]
fn no_file_is_no_login() {
    let repository = "r.example/a".parse().unwrap();
    assert!(matches!(find(&Machine::default(), &repository), Ok(None)));
    for nothing in ["{}", "", "\n"] {
        assert!(matches!(found(nothing, "r.example/a"), Ok(None)));
    }
}
