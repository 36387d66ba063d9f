// Holds custom resources against the types and the validators of the @kubernetes-models packages,
// which are generated from the API definitions of Gateway API, Traefik and Prometheus' operator.
// A type has no other fields than its own: one that an API server would prune or refuse is found.
//
// Standard input: manifests, as a JSON array. Output: a JSON array of what is wrong, in words.
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const MODELS = {
  HTTPRoute: "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1",
  Middleware: "@kubernetes-models/traefik/traefik.io/v1alpha1",
  PrometheusRule: "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1",
  ServersTransport: "@kubernetes-models/traefik/traefik.io/v1alpha1",
  ServiceMonitor: "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1",
};
const FILE = path.join(path.dirname(fileURLToPath(import.meta.url)), "manifests.ts");

// A TypeScript file that is only in memory: each manifest as a constant of its type.
function problemsOfTypes(manifests) {
  const source = manifests.map(
    (manifest, index) =>
      `import { I${manifest.kind} as T${index} } from "${MODELS[manifest.kind]}";\n` +
      `export const m${index}: T${index} = ${JSON.stringify(manifest, null, 1)};\n`,
  );
  const options = {
    noEmit: true,
    strict: true,
    skipLibCheck: true,
    types: [],
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
  };
  const host = ts.createCompilerHost(options);
  const { getSourceFile, fileExists } = host;
  host.fileExists = (name) => name === FILE || fileExists.call(host, name);
  host.getSourceFile = (name, ...rest) =>
    name === FILE
      ? ts.createSourceFile(name, source.join(""), options.target)
      : getSourceFile.call(host, name, ...rest);
  return ts
    .getPreEmitDiagnostics(ts.createProgram([FILE], options, host))
    .map((found) => ts.flattenDiagnosticMessageText(found.messageText, " "));
}

// A bound of Gateway API 1.6 that these types do not have yet.
function laterProblems(manifest) {
  return (manifest.spec.rules ?? [])
    .filter((rule) => rule.retry?.attempts < 1)
    .map(() => `${manifest.kind} ${manifest.metadata.name}: retry.attempts must be >= 1`);
}

// Patterns, bounds and enumerations.
async function problemsOfValues(manifest) {
  const models = await import(MODELS[manifest.kind]);
  try {
    new models[manifest.kind](manifest).validate();
    return laterProblems(manifest);
  } catch (error) {
    return [`${manifest.kind} ${manifest.metadata.name}: ${error.message}`];
  }
}

const manifests = JSON.parse(fs.readFileSync(0, "utf8"));
const problems = problemsOfTypes(manifests);
for (const manifest of manifests) problems.push(...(await problemsOfValues(manifest)));
console.log(JSON.stringify(problems));
