import { excerpt } from '#kernel/errors.ts';
import type { Severity } from '#kernel/severity.ts';
import type { Advised, Evidence, Facts, Figures, FindingFact, LineFact } from './facts.ts';

/** Evidence of one piece of advice that is named; more of the same is counted. */
const named = 5;

/** Gives its advice where the facts are evidence for it, and nothing otherwise. */
type Rule = (facts: Facts) => Advised | null;

export const aboutFinding = (one: FindingFact): Evidence => ({
  kind: 'FINDING',
  ref: one.fingerprint,
  text: excerpt(`${one.severity} ${one.rule}${one.file ? ` in ${one.file}${one.line ? `:${one.line}` : ''}` : ''}: ${one.title}`, 300), // prettier-ignore
});
export const aboutLine = (line: LineFact): Evidence => ({
  kind: 'LOG_LINE',
  ref: line.seq,
  text: excerpt(line.text, 300),
});
const aboutStep = (name: string, text: string): Evidence => ({ kind: 'STEP', ref: name, text });
const aboutFigure = (name: keyof Figures, text: string): Evidence => ({ kind: 'METRIC', ref: name, text });

const failed = ({ phase }: Facts): boolean => phase !== 'DEPLOYED';
const worst = (findings: readonly FindingFact[]): Severity => findings[0]?.severity ?? 'INFO';
const secondsOf = (facts: Facts, step: string): number | null =>
  facts.steps.find(({ name, status }) => name === step && status !== 'SKIPPED')?.seconds ?? null;
const ofBuild = ({ step }: LineFact): boolean => step === 'build';
const ofInstance = ({ step, stream }: LineFact): boolean => step === 'health' && stream !== 'SYSTEM';
const mib = (bytes: number): string => `${Math.round(bytes / 1_048_576)} MiB`;

/** Advice of findings of a scanner by these rules of it. */
const byFindings =
  (scanner: FindingFact['scanner'], rules: readonly string[] | null, title: string, text: string): Rule =>
  ({ findings }) => {
    const all = findings.filter((one) => one.scanner === scanner && (rules === null || rules.includes(one.rule)));
    return all.length === 0
      ? null
      : { severity: worst(all), title, text, evidence: all.slice(0, named).map(aboutFinding) };
  };

/** Advice of lines of output. */
const byLines =
  (which: (line: LineFact) => boolean, pattern: RegExp, severity: Severity, title: string, text: string): Rule =>
  ({ lines }) => {
    const all = lines.filter((line) => which(line) && pattern.test(line.text));
    return all.length === 0 ? null : { severity, title, text, evidence: all.slice(0, named).map(aboutLine) };
  };

const onlyWhen =
  (condition: (facts: Facts) => boolean, rule: Rule): Rule =>
  (facts) =>
    condition(facts) ? rule(facts) : null;

/** By their names, which recommendations have. */
export const rules: Readonly<Record<string, Rule>> = {
  'vulnerable-dependency': ({ findings }) => {
    const all = findings.filter(({ packageName, fixedVersion }) => packageName !== null && fixedVersion !== null);
    if (all.length === 0) return null;
    const list = all.slice(0, named).map((one) => `${one.packageName} ${one.installedVersion ?? ''} → ${one.fixedVersion}`); // prettier-ignore
    const more = all.length > named ? `, and ${all.length - named} more` : '';
    return {
      severity: worst(all),
      title: `${all.length} known ${all.length === 1 ? 'vulnerability has' : 'vulnerabilities have'} a fix`,
      text: `Update: ${list.join('; ')}${more}. The lock file must be committed for the update to be deployed.`,
      evidence: all.slice(0, named).map(aboutFinding),
    };
  },

  'secret-in-source': byFindings(
    'SECRETS',
    null,
    'There are secrets in the source',
    'Revoke each of them where it was issued: whoever has the repository has it, and its history keeps it. Give the new one to the application as an environment variable.',
  ),

  'secret-in-image': byFindings(
    'DOCKERFILE',
    ['SecretsUsedInArgOrEnv', 'copy-secret'],
    'The image keeps a secret',
    'ARG, ENV and copied files stay in the image and its history. Mount it for the one command that needs it (RUN --mount=type=secret), or set it as an environment variable of the application.',
  ),

  'runs-as-root': byFindings(
    'DOCKERFILE',
    ['DL3002', 'no-user'],
    'The container may run as root',
    'Add a USER instruction with a user of its own before the last CMD or ENTRYPOINT (official Node images have the user `node`), so that a hole in the application is no hole in the container.',
  ),

  'base-image-unpinned': byFindings(
    'DOCKERFILE',
    ['DL3006', 'DL3007'],
    'The base image is not pinned',
    'Name a version in FROM, or better a digest (image@sha256:…): the same commit then gives the same image tomorrow.',
  ),

  'unchecked-download': byFindings(
    'DOCKERFILE',
    ['pipe-to-shell', 'tls-off', 'add-url'],
    'The build trusts downloads that nothing checks',
    'Download by https, compare a checksum that is committed (ADD --checksum, sha256sum -c), then run it.',
  ),

  'no-lock-file': ({ scanners, lines }) => {
    const evidence: Evidence[] = scanners
      .filter(({ reason }) => reason?.includes('has no lock file'))
      .map(({ scanner, reason }) => ({ kind: 'SCANNER', ref: scanner, text: excerpt(reason ?? '', 300) }));
    const told = lines.filter((line) => ofBuild(line) && /can only install (?:packages )?with an existing package-lock\.json|No lockfile found|lockfile is absent/i.test(line.text)); // prettier-ignore
    evidence.push(...told.slice(0, named).map(aboutLine));
    if (evidence.length === 0) return null;
    return {
      severity: 'MEDIUM',
      title: 'There is no lock file',
      text: 'Commit the lock file of the package manager (`npm install` writes package-lock.json). Without it every build installs what is newest that day, and the scan cannot know what that is.',
      evidence,
    };
  },

  'lock-file-out-of-date': byLines(
    ofBuild,
    /package\.json and package-lock\.json .*(?:in sync|not in sync)|ERR_PNPM_OUTDATED_LOCKFILE|lockfile needs to be updated/i,
    'HIGH',
    'The lock file does not fit package.json',
    'Run the package manager’s install on your machine and commit the lock file that it writes.',
  ),

  'incomplete-scan': ({ scanners }) => {
    const left = scanners.filter(({ status }) => status === 'FAILED' || status === 'NOT_RUN');
    if (left.length === 0) return null;
    return {
      severity: 'LOW',
      title: 'A part of the security scan did not run',
      text: 'That nothing was found there means nothing. What kept it from running is told in its reason; the operator of the server can put most of it right.',
      evidence: left.map(({ scanner, status, reason }) => ({ kind: 'SCANNER', ref: scanner, text: excerpt(`${status}: ${reason ?? 'no reason told'}`, 300) })), // prettier-ignore
    };
  },

  'engine-mismatch': byLines(
    ofBuild,
    /EBADENGINE|The engine "node" is incompatible/,
    'MEDIUM',
    'A package wants another version of Node.js',
    'Build and run with a version that `engines` of that package allows: in FROM of the Dockerfile, or on the host.',
  ),

  'deprecated-package': byLines(
    ofBuild,
    /^(?:npm (?:warn|WARN) deprecated |warning .+: .*(?:deprecated|no longer (?:supported|maintained)))/,
    'LOW',
    'Packages are deprecated',
    'They get no fixes any more, for security either. `npm ls <package>` tells who wants them.',
  ),

  'slow-install': (facts) => {
    const whole = secondsOf(facts, 'build');
    if (whole === null || whole < 30) return null;
    for (const line of facts.lines.filter(ofBuild)) {
      const took = /\b(?:added|changed|audited|installed) \d+ packages?.* in (?:(\d+)m ?)?(?:(\d+(?:\.\d+)?)s)?/i.exec(line.text); // prettier-ignore
      const seconds = Number(took?.[1] ?? 0) * 60 + Number(took?.[2] ?? 0);
      if (!took || seconds < whole / 2) continue;
      return {
        severity: 'LOW',
        title: 'Most of the build is the installation of packages',
        text: `It took ${Math.round(seconds)} of ${Math.round(whole)} s. In a Dockerfile, copy package.json and the lock file and install before the rest of the source is copied: the layer is then kept until they change. Without one, leave out what only development needs.`,
        evidence: [aboutLine(line), aboutStep('build', `${Math.round(whole)} s`)],
      };
    }
    return null;
  },

  'out-of-memory': (facts) => {
    const told = facts.lines.filter((line) => /JavaScript heap out of memory|\bOOMKilled\b|Out of memory: Killed process|Cannot allocate memory|ended.* out of memory/i.test(line.text)); // prettier-ignore
    if (told.length === 0) return null;
    return {
      severity: 'HIGH',
      title: 'It ran out of memory',
      text: 'Give it more (`memoryMb`), or find what needs it: a build may need less with fewer parallel workers, an instance that grows steadily has a leak.',
      evidence: told.slice(0, named).map(aboutLine),
    };
  },

  'missing-module': onlyWhen(
    failed,
    byLines(
      ofInstance,
      /Cannot find (?:module|package) '[^']+'|ERR_MODULE_NOT_FOUND|ModuleNotFoundError/,
      'HIGH',
      'A module is missing where it runs',
      'It is not installed, not built, or stands in devDependencies, which are left out of what runs. Names of files count upper and lower case.',
    ),
  ),

  'only-loopback': onlyWhen(
    (facts) => failed(facts) && (facts.driver === 'DOCKER' || facts.driver === 'EC2'),
    byLines(
      ofInstance,
      /\b(?:listen\w*|running|started|serving|available|ready)\b.*(?:127\.0\.0\.1|localhost|\[::1\])|(?:127\.0\.0\.1|localhost|\[::1\]):\d+.*\b(?:listen\w*|running|ready)\b/i,
      'HIGH',
      'It listens on the loopback address of its container only',
      'Nothing outside of the container reaches it there. Listen on the address in HOST, which is 0.0.0.0 in a container.',
    ),
  ),

  'port-ignored': onlyWhen(
    failed,
    byLines(
      ofInstance,
      /EADDRINUSE|EACCES: permission denied (?:0\.0\.0\.0|127\.0\.0\.1|::):\d+|\blisten\w* (?:on|at) (?:port )?(?:3000|5000|8000|8080|80)\b/i,
      'HIGH',
      'It may listen on a port of its own choice',
      'Listen on the port in PORT, and on no other: another one is taken, or nobody asks there.',
    ),
  ),

  'development-server': byLines(
    ofInstance,
    /\bvite v?[\d.]+ +(?:dev|ready)|webpack-dev-server|\[nodemon\]|next dev\b|This is a development server|Do not use (?:it )?in (?:a )?production/i,
    'MEDIUM',
    'A server for development serves',
    'It is slow, and tells strangers more than it should. Build the application, and start what serves the result.',
  ),

  'slow-start': (facts) => {
    const seconds = secondsOf(facts, 'health');
    const part = (seconds ?? 0) / facts.healthTimeoutS;
    if (failed(facts) || seconds === null || part < 0.5 || seconds < 5) return null;
    return {
      severity: 'LOW',
      title: 'It took long until it was healthy',
      text: `It needed ${Math.round(seconds)} of the ${facts.healthTimeoutS} s that it may take (\`healthTimeoutS\`). On a busier host the deployment would fail. Do at build time what need not be done at each start, or allow more time.`,
      evidence: [aboutStep('health', `${seconds.toFixed(1)} s of ${facts.healthTimeoutS} s`)],
    };
  },

  'no-health-check-path': (facts) => {
    const step = facts.steps.find(({ name, status }) => name === 'health' && status === 'FAILED');
    const answered = step && /answered [345]\d\d/.test(facts.reason ?? '');
    if (!answered || facts.healthCheckPath !== '/') return null;
    return {
      severity: 'MEDIUM',
      title: 'It has no path for the health check',
      text: 'It was asked for `/`, and answered with something else than 2xx. Where that is as it should be, for instance since one must sign in there, set `healthCheckPath` to a path that answers 200 whenever the application can serve.',
      evidence: [aboutStep('health', excerpt(facts.reason ?? '', 300))],
    };
  },

  'errors-after-start': onlyWhen(
    (facts) => !failed(facts),
    ({ lines }) => {
      const all = lines.filter((line) => ofInstance(line) && line.level === 'ERROR');
      return all.length === 0
        ? null
        : {
            severity: 'LOW',
            title: 'It is healthy, and tells of errors',
            text: 'Its output has errors from before the first request. The health check does not see what they break.',
            evidence: all.slice(0, named).map(aboutLine),
          };
    },
  ),

  restarts: ({ restarts }) =>
    restarts === 0
      ? null
      : {
          severity: restarts >= 3 ? 'HIGH' : 'MEDIUM',
          title: 'It ends by itself and is started again',
          text: 'Requests in flight are lost each time. The end of its output tells why; without a word there, look at its memory.',
          evidence: [{ kind: 'METRIC', ref: 'restarts', text: `${restarts} since it serves` }],
        },

  'memory-near-limit': ({ figures }) => {
    const { memoryBytesMost: used, memoryLimitBytes: limit } = figures ?? {};
    if (used == null || limit == null || used < limit * 0.9) return null;
    return {
      severity: 'MEDIUM',
      title: 'Its memory is nearly all used',
      text: `It used ${mib(used)} of ${mib(limit)}. At the limit it is ended. Raise \`memoryMb\`, or find what grows.`,
      evidence: [aboutFigure('memoryBytesMost', `${mib(used)} of ${mib(limit)}`)],
    };
  },

  'unhealthy-at-times': ({ figures }) => {
    if (!figures || figures.looks < 10 || figures.healthy >= figures.looks * 0.95) return null;
    return {
      severity: 'MEDIUM',
      title: 'Its health check fails at times',
      text: 'It serves, and does not answer its own check now and then. Requests fail with it.',
      evidence: [aboutFigure('healthy', `${figures.healthy} of ${figures.looks} looks`)],
    };
  },

  'slow-answers': ({ figures }) => {
    const { latencyMs } = figures ?? {};
    if (latencyMs == null || latencyMs < 1000) return null;
    return {
      severity: 'LOW',
      title: 'Its health check takes long',
      text: 'Whoever asks for that path waits as long. Let it do less, or check something that tells the same.',
      evidence: [aboutFigure('latencyMs', `${Math.round(latencyMs)} ms on average`)],
    };
  },
};

/** What the rules make of it. */
export const byRules = (facts: Facts): (Advised & { readonly rule: string })[] =>
  Object.entries(rules).flatMap(([rule, advise]) => {
    const advised = advise(facts);
    return advised && advised.evidence.length > 0 ? [{ ...advised, rule }] : [];
  });
