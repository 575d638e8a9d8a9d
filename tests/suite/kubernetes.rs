//! What is shipped in `deploy/kubernetes/`: rendered by kustomize, held to the schemas of Kubernetes and of the Prometheus
//! operator and to what it promises; and its probes, run as a kubelet runs them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use agenthost_exporter::snapshot::catalogue;
use agenthost_exporter::tool::supervise;
use serde_json::{Value, json};

use crate::binary::exporter;
use crate::outputs::golden;

mod kubelet;

const OVERLAYS: &[&str] = &["native-sidecar", "plain-container", "shared-processes", "http-probe"];

const RULES: &str = "alerts/agenthost.rules.yml";
const SIDECAR: &str = "agenthost-exporter";

/// What `kubectl apply` remembers of an object is itself in an annotation, and those end here.
const LARGEST_APPLIED: usize = 262_144;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Where `tests/run` has put kustomize and the schemas. It sets the variable to nothing if it had to go without.
fn tools() -> Option<PathBuf> {
    let folder = std::env::var_os("AGENTHOST_KUBERNETES").map_or_else(|| path("target/kubernetes"), PathBuf::from);
    if folder.as_os_str().is_empty() {
        eprintln!("SKIPPED: the manifests for Kubernetes, because kustomize could not be built");
        return None;
    }
    if !folder.join("bin/kustomize").exists() {
        crate::skipped("the manifests for Kubernetes", "tests/run has not installed kustomize");
        return None;
    }
    Some(folder)
}

fn render(tools: &Path, folder: &Path) -> String {
    let Output { status, stdout, stderr } =
        Command::new(tools.join("bin/kustomize")).arg("build").arg(folder).output().unwrap();
    let said = String::from_utf8_lossy(&stderr);
    assert!(status.success() && said.is_empty(), "{}: {said}", folder.display());
    String::from_utf8(stdout).unwrap()
}

fn overlay(tools: &Path, name: &str) -> String {
    render(tools, &path("deploy/kubernetes/overlays").join(name))
}

fn monitoring(tools: &Path) -> String {
    render(tools, &path("deploy/kubernetes/monitoring"))
}

/// All that was rendered, by kind; several of a kind in their order.
struct Rendered(Vec<Value>);

impl Rendered {
    fn of(text: &str) -> Rendered {
        let documents = text.split("\n---\n").map(|document| serde_saphyr::from_str(document).unwrap());
        Rendered(documents.collect())
    }

    fn all<'a>(&'a self, kind: &str) -> impl Iterator<Item = &'a Value> {
        let kind = kind.to_owned();
        self.0.iter().filter(move |object| object["kind"] == kind)
    }

    fn one(&self, kind: &str) -> &Value {
        let found: Vec<_> = self.all(kind).collect();
        assert_eq!(found.len(), 1, "{kind}");
        found[0]
    }

    fn pod(&self) -> Pod<'_> {
        Pod(&self.one("Deployment")["spec"]["template"])
    }
}

/// The template of the pod.
#[derive(Clone, Copy)]
struct Pod<'a>(&'a Value);

impl<'a> Pod<'a> {
    fn spec(self) -> &'a Value {
        &self.0["spec"]
    }

    fn listed(self, key: &str) -> &'a [Value] {
        self.spec()[key].as_array().map_or(&[], Vec::as_slice)
    }

    fn containers(self) -> impl Iterator<Item = &'a Value> {
        self.listed("initContainers").iter().chain(self.listed("containers"))
    }

    fn container(self, name: &str) -> &'a Value {
        self.containers().find(|container| container["name"] == name).unwrap_or_else(|| panic!("no container {name}"))
    }

    fn labels(self) -> &'a Value {
        &self.0["metadata"]["labels"]
    }
}

fn words(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect()
}

/// Whether whatever is selected has these labels.
fn selects(selector: &Value, labels: &Value) -> bool {
    let wanted = selector["matchLabels"].as_object().unwrap();
    !wanted.is_empty() && wanted.iter().all(|(key, value)| labels[key] == *value)
}

fn fed(command: &mut Command, input: &str) -> (bool, String) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    (status.success(), String::from_utf8(stdout).unwrap() + &String::from_utf8_lossy(&stderr))
}

fn validate(tools: &Path, version: &str, text: &str) -> (bool, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    let mut command = Command::new(tools.join("bin/kubernetes-validate"));
    let Output { status, stdout, stderr } =
        command.args(["--strict", "-k", version]).arg(file.path()).output().unwrap();
    (status.success(), String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr))
}

fn hold_custom_resources(tools: &Path, text: &str) -> (bool, String) {
    let mut command = Command::new(tools.join("bin/python3"));
    command.arg(path("tests/check-custom-resources"));
    for definition in ["podmonitors", "prometheusrules"] {
        command.arg(tools.join(format!("monitoring.coreos.com_{definition}.yaml")));
    }
    fed(&mut command, text)
}

#[test]
fn kubernetes_takes_every_object_of_every_overlay() {
    let Some(tools) = tools() else { return };
    for (name, versions) in [
        ("native-sidecar", ["1.29", "1.37"]),
        ("shared-processes", ["1.29", "1.37"]),
        ("http-probe", ["1.29", "1.37"]),
        ("plain-container", ["1.25", "1.37"]),
    ] {
        let text = overlay(&tools, name);
        for version in versions {
            let (taken, said) = validate(&tools, version, &text);
            assert!(taken && !said.contains("WARN"), "{name} by {version}: {said}");
        }
    }
    // Were it not strict, what is misspelt would be passed over.
    let native = overlay(&tools, "native-sidecar");
    for (right, wrong) in [("readOnlyRootFilesystem", "readOnlyRootFileSystem"), ("periodSeconds", "periodSecs")] {
        assert!(!validate(&tools, "1.37", &native.replace(right, wrong)).0, "{wrong}");
    }
    assert!(!validate(&tools, "1.25", &native).0, "there were no native sidecars yet");
}

#[test]
fn the_operator_takes_its_resources() {
    let Some(tools) = tools() else { return };
    let text = monitoring(&tools);
    let (taken, said) = hold_custom_resources(&tools, &text);
    assert!(taken && said == "2 resources held\n", "{said}");
    for (right, wrong) in [
        ("podMetricsEndpoints:", "podMetricEndpoints:"),
        ("targetLabel: job", "target_label: job"),
        ("action: labeldrop", "action: label-drop"),
        ("keep_firing_for: 5m", "keep_firing_for: five"),
        ("kind: PodMonitor", "kind: PodMonitors"),
    ] {
        assert!(text.contains(right), "{right}");
        assert!(!hold_custom_resources(&tools, &text.replace(right, wrong)).0, "{wrong}");
    }
    let maps: Vec<&str> = text.split("\n---\n").filter(|document| document.contains("kind: ConfigMap\n")).collect();
    let (taken, said) = validate(&tools, "1.37", &maps.join("\n---\n"));
    assert!(taken, "{said}");
}

#[test]
fn no_container_has_a_right_that_it_does_not_need() {
    let Some(tools) = tools() else { return };
    for name in OVERLAYS {
        let rendered = Rendered::of(&overlay(&tools, name));
        let pod = rendered.pod();
        assert_eq!(pod.spec()["automountServiceAccountToken"], false, "{name}");
        for key in ["hostPID", "hostNetwork", "hostIPC"] {
            assert!(pod.spec()[key].is_null(), "{name}: {key}");
        }
        assert_eq!(pod.spec()["shareProcessNamespace"] == true, *name == "shared-processes", "{name}");
        for volume in pod.listed("volumes") {
            assert!(volume["hostPath"].is_null(), "{name}: {volume}");
        }
        let of_pod = &pod.spec()["securityContext"];
        for container in pod.containers() {
            let what = format!("{name}: {}", container["name"]);
            let own = &container["securityContext"];
            let either = |key: &str| if own[key].is_null() { &of_pod[key] } else { &own[key] };
            assert_eq!(own["allowPrivilegeEscalation"], false, "{what}");
            assert_eq!(own["readOnlyRootFilesystem"], true, "{what}");
            assert_eq!(own["capabilities"], json!({"drop": ["ALL"]}), "{what}");
            assert!(own["privileged"].is_null(), "{what}");
            assert_eq!(either("runAsNonRoot"), true, "{what}");
            assert_eq!(either("seccompProfile")["type"], "RuntimeDefault", "{what}");
            assert_eq!(either("runAsUser"), &of_pod["runAsUser"], "{what}: whoever may read the host's folder");
            assert_eq!(either("runAsGroup"), &of_pod["runAsGroup"], "{what}");
            for amount in ["/resources/requests/cpu", "/resources/requests/memory", "/resources/limits/memory"] {
                assert!(container.pointer(amount).is_some_and(Value::is_string), "{what}: {amount}");
            }
        }
    }
}

#[test]
fn the_sidecar_has_a_probe_of_itself_alone_and_the_host_has_the_verdict() {
    let Some(tools) = tools() else { return };
    for name in OVERLAYS {
        let rendered = Rendered::of(&overlay(&tools, name));
        let pod = rendered.pod();
        let (sidecar, host) = (pod.container(SIDECAR), pod.container("host"));
        let is_native = pod.listed("initContainers").iter().any(|container| container["name"] == SIDECAR);
        assert_eq!(is_native, *name != "plain-container", "{name}");
        assert_eq!(sidecar["restartPolicy"], if is_native { json!("Always") } else { Value::Null }, "{name}");
        assert_eq!(words(&sidecar["args"])[0], "supervise", "{name}: a container that ends makes its pod unready");

        assert!(sidecar["readinessProbe"].is_null() && sidecar["startupProbe"].is_null(), "{name}");
        let own = &sidecar["livenessProbe"];
        assert_eq!(
            words(&own["exec"]["command"]),
            ["/agenthost-exporter", "healthcheck", "--unreachable=ok"],
            "{name}"
        );
        assert!(host["livenessProbe"].is_null(), "{name}: a verdict restarts nothing");
        let verdict = &host["readinessProbe"];
        if *name == "http-probe" {
            assert!(verdict["exec"].is_null(), "{name}");
            assert_eq!(verdict["httpGet"], json!({"path": "/readyz", "port": 10484}));
            assert!(pod.containers().all(|container| container["name"] != "agenthost-install"), "{name}");
            // The longest pause of the supervisor, a start, and the time-out of every collector's first look.
            let budget = verdict["periodSeconds"].as_u64().unwrap() * verdict["failureThreshold"].as_u64().unwrap();
            assert!(Duration::from_secs(budget) >= supervise::LONGEST + Duration::from_secs(45), "{budget}");
        } else {
            let command = "/agenthost/agenthost-exporter healthcheck --readyz --unreachable=ok";
            assert_eq!(words(&verdict["exec"]["command"]).join(" "), command, "{name}");
            let install = pod.container("agenthost-install");
            assert_eq!(words(&install["command"]), ["/agenthost-exporter", "install", "/agenthost"], "{name}");
            assert_eq!(mount(install, "/agenthost")["name"], mount(host, "/agenthost")["name"], "{name}");
            assert_eq!(mount(host, "/agenthost")["readOnly"], true, "{name}");
        }
        for probe in [own, verdict] {
            assert!(probe["timeoutSeconds"].as_u64().unwrap() >= 5, "{name}: a program is to be started");
        }
        assert_eq!(mount(sidecar, "/srv/host")["readOnly"], true, "{name}");
        let state = &mount(sidecar, "/var/lib/agenthost-exporter")["name"];
        let volume = pod.listed("volumes").iter().find(|volume| volume["name"] == *state).unwrap();
        assert!(volume["emptyDir"].is_object(), "{name}");
        for container in pod.containers() {
            for mount in container["volumeMounts"].as_array().unwrap() {
                assert!(pod.listed("volumes").iter().any(|volume| volume["name"] == mount["name"]), "{name}: {mount}");
            }
        }
    }
}

fn mount<'a>(container: &'a Value, at: &str) -> &'a Value {
    let mounts = container["volumeMounts"].as_array().unwrap();
    mounts.iter().find(|mount| mount["mountPath"] == at).unwrap_or_else(|| panic!("nothing at {at}: {container}"))
}

#[test]
fn names_ports_and_labels_fit_each_other() {
    let Some(tools) = tools() else { return };
    let monitoring = Rendered::of(&monitoring(&tools));
    let monitor = monitoring.one("PodMonitor");
    for name in OVERLAYS {
        let rendered = Rendered::of(&overlay(&tools, name));
        let pod = rendered.pod();
        for object in &rendered.0 {
            for label in ["name", "component", "part-of"] {
                let label = format!("app.kubernetes.io/{label}");
                assert!(object["metadata"]["labels"][&label].is_string(), "{name}: {} {label}", object["kind"]);
            }
        }
        assert!(selects(&rendered.one("Deployment")["spec"]["selector"], pod.labels()), "{name}");
        assert!(selects(&monitor["spec"]["selector"], pod.labels()), "{name}");
        let ports = json!([{"name": "agenthost", "containerPort": 10484}]);
        assert_eq!(pod.container(SIDECAR)["ports"], ports, "{name}");
        assert_eq!(monitor["spec"]["podMetricsEndpoints"][0]["port"], "agenthost");
        for container in pod.containers().filter(|container| container["name"] != "host") {
            let image = format!("agenthost-exporter:{}", env!("CARGO_PKG_VERSION"));
            assert_eq!(container["image"], image, "{name}");
        }
        let map = rendered.one("ConfigMap");
        let volume = |volume: &&Value| volume["configMap"]["name"] == map["metadata"]["name"];
        assert!(pod.listed("volumes").iter().any(|each| volume(&each)), "{name}: its name has no hash");

        let policy = rendered.one("NetworkPolicy");
        assert!(selects(&policy["spec"]["podSelector"], pod.labels()), "{name}");
        let [prometheus, rest] = policy["spec"]["ingress"].as_array().unwrap().as_slice() else { panic!("{policy}") };
        assert_eq!(prometheus["ports"], json!([{"protocol": "TCP", "port": 10484}]));
        assert!(prometheus["from"][0]["podSelector"]["matchLabels"].is_object(), "nobody else");
        let tcp = rest["ports"].as_array().unwrap().iter().filter(|port| port["protocol"] == "TCP");
        let open: BTreeSet<u64> =
            tcp.flat_map(|port| port["port"].as_u64().unwrap()..=port["endPort"].as_u64().unwrap()).collect();
        assert!(rest["from"].is_null() && open.len() == 65534 && !open.contains(&10484), "the host's ports stay open");
    }
}

/// A configuration, and a command line, that the program takes.
#[test]
fn the_program_can_be_started_so() {
    let Some(tools) = tools() else { return };
    let rendered = Rendered::of(&overlay(&tools, "native-sidecar"));
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    fs::write(&config, rendered.one("ConfigMap")["data"]["config.toml"].as_str().unwrap()).unwrap();
    let own = words(&rendered.pod().container(SIDECAR)["args"]);
    let flags =
        own[1..].iter().map(|word| word.replace("/etc/agenthost-exporter", &folder.path().display().to_string()));
    let checked = exporter().args(["config", "check"]).args(flags).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

/// A component laid over somebody else's host, which is a StatefulSet.
#[test]
fn another_host_gets_its_sidecar_and_nobody_else_does() {
    let Some(tools) = tools() else { return };
    // Folders are named relative to a file.
    let folder = tempfile::Builder::new().prefix("kustomize-").tempdir_in(path("target")).unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write(
        "kustomization.yaml",
        "resources: [host.yaml]\ncomponents: [../../deploy/kubernetes/components/sidecar]\n\
         images: [{name: agenthost-exporter, newName: mine/exporter, newTag: v9}]\n\
         configMapGenerator:\n- {name: agenthost-exporter, files: [config.toml], options: {disableNameSuffixHash: true}}\n",
    );
    write("config.toml", "[host]\nprofile = \"pynchy\"\nroot = \"/srv/host\"\n");
    let host = |name: &str, label: &str| {
        format!(
            "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: {name}, labels: {{{label}}}}}\nspec:\n  serviceName: x\n  \
             selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n      \
             initContainers:\n      - name: migrate\n        image: mine\n      containers:\n      - name: host\n        \
             image: mine\n        volumeMounts:\n        - name: host\n          mountPath: /data\n      volumes:\n      - name: \
             host\n        emptyDir: {{}}\n"
        )
    };
    let (mine, other) = (host("mine", "agenthost-exporter: beside"), host("other", ""));
    write("host.yaml", &format!("{mine}---\n{other}"));
    let rendered = Rendered::of(&render(&tools, folder.path()));
    let pods: BTreeMap<&str, Pod> = rendered
        .all("StatefulSet")
        .map(|set| (set["metadata"]["name"].as_str().unwrap(), Pod(&set["spec"]["template"])))
        .collect();
    let names = |pod: &Pod| pod.containers().map(|each| each["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&pods["mine"]), ["agenthost-install", SIDECAR, "migrate", "host"], "it sees the host begin");
    assert_eq!(names(&pods["other"]), ["migrate", "host"]);
    assert_eq!(pods["mine"].container(SIDECAR)["image"], "mine/exporter:v9");
    assert_eq!(mount(pods["mine"].container("host"), "/data")["name"], "host", "what it had stays");
}

#[test]
fn what_the_readme_applies_is_there() {
    let readme = fs::read_to_string(path("README.md")).unwrap();
    let applied: Vec<&str> = readme.split(" -k ").skip(1).map(|rest| rest.split_whitespace().next().unwrap()).collect();
    assert_eq!(applied, ["deploy/kubernetes/overlays/native-sidecar", "deploy/kubernetes/monitoring"]);
    let image = format!("agenthost-exporter:{}", env!("CARGO_PKG_VERSION"));
    assert!(readme.contains(&format!("-t {image} ")), "the manifests ask for {image}");
    let own = fs::read_to_string(path("deploy/kubernetes/README.md")).unwrap();
    for name in OVERLAYS {
        assert!(own.contains(&format!("| `overlays/{name}` |")), "{name}");
    }
}

#[test]
fn the_rules_are_those_of_alerts() {
    let rules = fs::read_to_string(path(RULES)).unwrap();
    let groups = &rules[rules.find("\ngroups:\n").unwrap() + 1..];
    let indented: String =
        groups.lines().map(|line| if line.is_empty() { "\n".to_owned() } else { format!("  {line}\n") }).collect();
    golden(
        "../../deploy/kubernetes/monitoring/prometheusrule.yaml",
        &format!(
            "# Made of {RULES} by `UPDATE=1 cargo test --test suite kubernetes`: change it there.\n\
             apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: agenthost-exporter\n  labels:\n    \
             app.kubernetes.io/name: agenthost-exporter\n    app.kubernetes.io/component: rules\n    \
             app.kubernetes.io/part-of: agent-host\nspec:\n{indented}"
        ),
    );
    let Some(tools) = tools() else { return };
    let rendered = Rendered::of(&monitoring(&tools));
    let known: Value = serde_saphyr::from_str(&rules).unwrap();
    assert_eq!(rendered.one("PrometheusRule")["spec"], known);
}

#[test]
fn a_scrape_has_the_name_that_rules_ask_for_and_hides_no_label() {
    let Some(tools) = tools() else { return };
    let rendered = Rendered::of(&monitoring(&tools));
    let endpoint = &rendered.one("PodMonitor")["spec"]["podMetricsEndpoints"][0];
    let relabelings = endpoint["relabelings"].as_array().unwrap();
    assert!(relabelings.contains(&json!({"targetLabel": "job", "replacement": "agenthost"})), "{endpoint}");
    let drop = relabelings.iter().find(|each| each["action"] == "labeldrop").unwrap();
    let dropped: Vec<&str> = drop["regex"].as_str().unwrap().split('|').collect();
    let of_the_operator = ["namespace", "pod", "container", "endpoint", "job", "instance"];
    for (_, fact) in catalogue() {
        for label in fact.labels.iter().filter(|label| of_the_operator.contains(label)) {
            assert!(dropped.contains(label), "{} would be exported_{label}", fact.prometheus);
        }
    }
}

#[test]
fn each_dashboard_is_in_a_map_that_can_be_applied() {
    let Some(tools) = tools() else { return };
    let rendered = Rendered::of(&monitoring(&tools));
    let mut shipped: BTreeMap<String, String> = BTreeMap::new();
    for entry in fs::read_dir(path("dashboards")).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_some_and(|end| end == "json") {
            shipped.insert(file.file_name().unwrap().display().to_string(), fs::read_to_string(&file).unwrap());
        }
    }
    assert!(!shipped.is_empty());
    for map in rendered.all("ConfigMap") {
        assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
        assert!(map.to_string().len() < LARGEST_APPLIED, "{}", map["metadata"]["name"]);
        for (name, text) in map["data"].as_object().unwrap() {
            assert_eq!(shipped.remove(name).as_deref(), text.as_str(), "{name}");
        }
    }
    assert!(shipped.is_empty(), "in no map: {:?}", shipped.keys());
}
