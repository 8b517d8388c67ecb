import { execFile } from 'node:child_process';
import { chmod, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { createScanners, type Report, type ScannersOptions } from '../../../src/integrations/scanners/index.ts';
import { severityOfVector } from '../../../src/integrations/scanners/dependencies/advisories.ts';
import { parseLock } from '../../../src/integrations/scanners/dependencies/locks.ts';
import { isAffected } from '../../../src/integrations/scanners/dependencies/osv.ts';
import { lint } from '../../../src/integrations/scanners/dockerfile/rules.ts';
import { aboutOf, findingsOf } from '../../../src/integrations/scanners/trivy/report.ts';
import { isAlive, type ProcessIdentity } from '../../../src/kernel/processes/children.ts';

const run = promisify(execFile);
let folder: string;
let count = 0;
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'scanners-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));
const closers: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0)) await close();
});

async function repo(files: Readonly<Record<string, string | Buffer>>): Promise<string> {
  const dir = path.join(folder, `repo-${++count}`);
  await mkdir(dir);
  for (const [name, content] of Object.entries(files)) {
    await mkdir(path.dirname(path.join(dir, name)), { recursive: true });
    await writeFile(path.join(dir, name), content);
  }
  return dir;
}

/** A program named trivy that does what these lines of a shell do. */
async function trivy(script: string): Promise<string> {
  const dir = path.join(folder, `bin-${++count}`);
  await mkdir(dir);
  await writeFile(path.join(dir, 'trivy'), `#!/bin/sh\n${script}\n`);
  await chmod(path.join(dir, 'trivy'), 0o755);
  return dir;
}

async function scan(
  dir: string,
  more: Partial<Omit<ScannersOptions, 'advisories'>> & {
    advisories?: object;
    signal?: AbortSignal;
    record?: (child: ProcessIdentity) => Promise<void>;
  } = {},
): Promise<Record<string, Report>> {
  const { signal = new AbortController().signal, record = async () => undefined, advisories, ...options } = more;
  const scanners = await createScanners({
    advisories: { osvPath: null, registryUrl: null, allowLoopback: true, ...advisories },
    trivy: { mode: 'off', pathDirs: [], cacheDir: path.join(folder, 'cache'), environment: {} },
    ...options,
  });
  closers.push(() => scanners.close());
  const reports = await scanners.scan({ folder: dir, key: 'key', signal, record });
  return Object.fromEntries(reports.map((one) => [one.scanner, one]));
}
const trivyIn = (dir: string, more: object = {}) => ({
  trivy: {
    mode: 'auto' as const,
    pathDirs: [dir, '/usr/bin', '/bin'],
    cacheDir: path.join(folder, 'cache'),
    environment: {},
    ...more,
  },
});

// Put together here, so that this file itself is no finding.
const token = ['gh', 'p_', 'aB3dE6gH9j'.repeat(4).slice(0, 36)].join('');
const advisory = (id: string, affected: object, more: object = {}) => ({
  id,
  modified: '2026-10-01T00:00:00Z',
  summary: `About ${id}`,
  affected: [{ package: { ecosystem: 'npm', name: 'left' }, ...affected }],
  ...more,
});
const ranges = (...events: object[]) => ({ ranges: [{ type: 'SEMVER', events }] });

describe('secrets', () => {
  test('are told by where they are, and nothing of them is; comments in the source turn nothing off', async () => {
    const files = {
      'src/a.js': `// secretlint-disable\n\nconst k = '${token}';\nconst again = '${token}';\n`,
      'b.js': 'const x = 1;',
    };
    const { SECRETS } = await scan(await repo(files));
    expect(SECRETS).toMatchObject({ status: 'RAN', version: expect.stringContaining('secretlint') });
    expect(SECRETS?.findings).toMatchObject([
      {
        severity: 'CRITICAL',
        rule: 'github/GITHUB_TOKEN',
        title: 'GitHub Token in the source',
        file: 'src/a.js',
        line: 3,
      },
    ]);
    expect(JSON.stringify(SECRETS)).not.toContain(token.slice(4, 12));
    // Elsewhere in the file it is the same one; another secret is another one.
    const moved = await scan(await repo({ 'src/a.js': `\n\n\n\n${files['src/a.js']}` }));
    expect(moved['SECRETS']?.findings[0]?.fingerprint).toBe(SECRETS?.findings[0]?.fingerprint);
    const other = await scan(await repo({ 'src/a.js': files['src/a.js'].replaceAll('aB3', 'zZ9') }));
    expect(other['SECRETS']?.findings[0]?.fingerprint).not.toBe(SECRETS?.findings[0]?.fingerprint);
  });

  test('nothing leads out of the repository, and what is left out is told', async () => {
    const outside = await repo({ 'outside.txt': token });
    const dir = await repo({
      'binary.bin': Buffer.concat([Buffer.from([0, 1, 2]), Buffer.from(token)]),
      'long.txt': `${'x'.repeat(10_000_000)}${token}`,
      '.git/config': token,
    });
    await symlink(path.join(outside, 'outside.txt'), path.join(dir, 'link.txt'));
    await symlink(outside, path.join(dir, 'folder'));
    await symlink('/dev/zero', path.join(dir, 'zero.txt'));
    await run('mkfifo', [path.join(dir, 'pipe.txt')]);
    const { SECRETS } = await scan(dir);
    expect(SECRETS).toMatchObject({ status: 'PARTIAL', reason: '1 text files were not looked at.', findings: [] });
    expect(SECRETS?.notes).toContain('1 binary files were skipped.');
    expect(SECRETS?.notes).toContain('4 links were not followed.');
  });
});

describe('lock files', () => {
  const names = (file: string, text: string) =>
    parseLock(file, text)
      .packages.map(({ name, version }) => `${name}@${version}`)
      .toSorted();
  test('of npm 1 to 3, yarn 1 and later, and pnpm tell what would be installed', () => {
    expect(names('package-lock.json', JSON.stringify({ lockfileVersion: 1, dependencies: { a: { version: '1.0.0', dependencies: { '@b/c': { version: '2.0.0' } } }, d: { version: 'npm:real@3.0.0' }, g: { version: 'git+ssh://x' } } }))).toEqual(['@b/c@2.0.0', 'a@1.0.0', 'real@3.0.0']); // prettier-ignore
    const packages = { '': { name: 'me', version: '9.9.9' }, 'packages/own': { version: '1.0.0' }, 'node_modules/own': { link: true }, 'node_modules/a': { version: '1.0.0' }, 'node_modules/a/node_modules/@b/c': { version: '2.0.0' }, 'node_modules/alias': { name: 'real', version: '3.0.0' }, 'node_modules/g': { version: '1.0.0', resolved: 'git+ssh://x' } }; // prettier-ignore
    for (const lockfileVersion of [2, 3]) {
      const text = JSON.stringify({ lockfileVersion, packages });
      expect(names('package-lock.json', text)).toEqual(['@b/c@2.0.0', 'a@1.0.0', 'real@3.0.0']);
      expect(parseLock('package-lock.json', text).elsewhere).toBe(1);
    }
    expect(names('yarn.lock', '# yarn lockfile v1\n\n\n"@b/c@^2.0.0", "@b/c@^2.0.1":\n  version "2.0.1"\n\na@^1.0.0:\n  version "1.2.0"\n\n"x@npm:real@^3.0.0":\n  version "3.1.0"\n')).toEqual(['@b/c@2.0.1', 'a@1.2.0', 'real@3.1.0']); // prettier-ignore
    expect(names('yarn.lock', '__metadata:\n  version: 8\n\n"a@npm:^1.0.0":\n  version: 1.2.0\n  resolution: "a@npm:1.2.0"\n\n"me@workspace:.":\n  version: 0.0.0-use.local\n  resolution: "me@workspace:."\n')).toEqual(['a@1.2.0']); // prettier-ignore
    for (const [version, ...keys] of [["'9.0'", "'@b/c@2.0.0'", 'a@1.0.0'], ["'6.0'", "'/@b/c@2.0.0(a@1.0.0)'", '/a@1.0.0'], ['5.4', '/@b/c/2.0.0_a@1.0.0', '/a/1.0.0']]) // prettier-ignore
      expect(names('pnpm-lock.yaml', `lockfileVersion: ${version}\npackages:\n${keys.map((key) => `  ${key}:\n    dev: false\n`).join('')}`)).toEqual(['@b/c@2.0.0', 'a@1.0.0']); // prettier-ignore
  });

  test('that are hostile change nothing, and say that they cannot be read', () => {
    const hostile = '{"lockfileVersion":3,"packages":{"__proto__":{"version":"1.0.0"},"node_modules/__proto__":{"version":"1.0.0"},"node_modules/constructor":{"version":"1.0.0"},"node_modules/a b\\n":{"version":"1.0.0"}}}'; // prettier-ignore
    expect(names('package-lock.json', hostile)).toEqual(['__proto__@1.0.0', 'constructor@1.0.0']);
    expect(({} as Record<string, unknown>)['version']).toBeUndefined();
    for (const text of ['', 'null', '[]', '{', '{}']) expect(() => parseLock('package-lock.json', text)).toThrow(/^it/);
    const deep = `${'{"dependencies":{"a":'.repeat(5000)}{}${'}}'.repeat(5000)}`;
    expect(() => parseLock('package-lock.json', deep)).toThrow('it nests deeper than 200');
    expect(() => parseLock('pnpm-lock.yaml', 'a: [')).toThrow('it is not what its program writes');
  });
});

describe('dependencies', () => {
  const lock = (version: string) =>
    JSON.stringify({ lockfileVersion: 3, packages: { '': {}, 'node_modules/left': { version } } });

  test.each([
    ['1.9.9', ranges({ introduced: '0' }, { fixed: '2.0.0' }), '2.0.0'],
    ['2.0.0', ranges({ introduced: '0' }, { fixed: '2.0.0' }), false],
    ['2.0.0-rc.1', ranges({ introduced: '0' }, { fixed: '2.0.0' }), '2.0.0'],
    ['3.5.0', ranges({ introduced: '0' }, { fixed: '2.0.0' }, { introduced: '3.0.0' }, { fixed: '3.6.0' }), '3.6.0'],
    ['2.5.0', ranges({ introduced: '3.0.0' }, { fixed: '3.6.0' }, { introduced: '0' }, { fixed: '2.0.0' }), false],
    ['1.0.0', ranges({ introduced: '0' }, { last_affected: '1.0.0' }), null],
    ['1.0.1', ranges({ introduced: '0' }, { last_affected: '1.0.0' }), false],
    ['1.0.0', { versions: ['1.0.0'] }, null],
    ['no version', ranges({ introduced: '0' }), false],
  ] as const)('version %s of %j', (version, affected, expected) => {
    expect(isAffected(affected as Record<string, unknown>, version)).toBe(expected);
  });

  test('severities follow CVSS 3', () => {
    // Scores of the examples of FIRST: 9.8, 6.1, 7.8, 3.1 and 0.
    expect([
      'CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H', 'CVSS:3.1/AV:N/AC:L/PR:N/UI:R/S:C/C:L/I:L/A:N',
      'CVSS:3.0/AV:L/AC:L/PR:L/UI:N/S:U/C:H/I:H/A:H', 'CVSS:3.1/AV:N/AC:H/PR:L/UI:N/S:U/C:L/I:N/A:N',
      'CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:N', 'CVSS:4.0/AV:N', 'CVSS:3.1/AV:?',
    ].map(severityOfVector)).toEqual(['CRITICAL', 'MEDIUM', 'HIGH', 'LOW', 'INFO', null, null]); // prettier-ignore
  });

  test('are looked up in a folder, a zip and lines of OSV; the database and its age are told', async () => {
    const dir = await repo({ 'package-lock.json': lock('1.0.0'), 'sub/package-lock.json': lock('2.0.0') });
    const database = {
      'GHSA-1.json': JSON.stringify(
        advisory('GHSA-1', ranges({ introduced: '0' }, { fixed: '1.5.0' }), {
          database_specific: { severity: 'MODERATE' },
        }),
      ),
      'MAL-2.json': JSON.stringify(advisory('MAL-2', { versions: ['1.0.0'] })),
      'GHSA-3.json': JSON.stringify(advisory('GHSA-3', { versions: ['1.0.0'] }, { withdrawn: '2026-01-01T00:00:00Z' })),
      'PYSEC-4.json': JSON.stringify({
        ...advisory('PYSEC-4', {}),
        affected: [{ package: { ecosystem: 'PyPI', name: 'left' }, versions: ['1.0.0'] }],
      }),
    };
    const osv = await repo(database);
    const zip = path.join(folder, 'all.zip');
    await run('python3', ['-m', 'zipfile', '-c', zip, ...Object.keys(database).map((name) => path.join(osv, name))]);
    const lines = path.join(folder, 'all.jsonl');
    await writeFile(lines, Object.values(database).join('\n'));
    for (const osvPath of [osv, zip, lines]) {
      const { DEPENDENCIES } = await scan(dir, { advisories: { osvPath } });
      expect(DEPENDENCIES).toMatchObject({
        status: 'RAN',
        database: { name: 'OSV, 3 advisories for npm', date: '2026-10-01T00:00:00.000Z' },
      });
      expect(DEPENDENCIES?.notes.join()).toMatch(/its newest advisory is \d+ days old/);
      expect(DEPENDENCIES?.findings).toMatchObject([
        {
          severity: 'CRITICAL',
          rule: 'MAL-2',
          file: 'package-lock.json',
          packageName: 'left',
          installedVersion: '1.0.0',
          fixedVersion: null,
        },
        {
          severity: 'MEDIUM',
          rule: 'GHSA-1',
          title: 'About GHSA-1',
          fixedVersion: '1.5.0',
          advisoryUrl: 'https://osv.dev/vulnerability/GHSA-1',
        },
      ]);
    }
  });

  test('a registry is asked as npm audit asks; an answer that is none is a failure and no clean bill', async () => {
    const asked: string[] = [];
    let answer = JSON.stringify({
      left: [
        {
          id: 7,
          url: 'https://github.com/advisories/GHSA-aaaa-bbbb-cccc',
          title: 'Bad',
          severity: 'high',
          vulnerable_versions: '<1.5.0',
        },
      ],
    });
    const server = createServer((request, response) => {
      request.on('data', (chunk: Buffer) => asked.push(`${request.method} ${request.url} ${chunk.toString()}`));
      request.on('end', () => response.end(answer));
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    closers.push(async () => void server.close());
    const registryUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const dir = await repo({ 'package-lock.json': lock('1.0.0') });
    const { DEPENDENCIES } = await scan(dir, { advisories: { registryUrl } });
    expect(asked).toEqual(['POST /-/npm/v1/security/advisories/bulk {"left":["1.0.0"]}']);
    expect(DEPENDENCIES?.findings).toMatchObject([
      { severity: 'HIGH', advisoryId: 'GHSA-aaaa-bbbb-cccc', installedVersion: '1.0.0' },
    ]);
    answer = 'no JSON';
    expect((await scan(dir, { advisories: { registryUrl } }))['DEPENDENCIES']).toMatchObject({
      status: 'FAILED',
      findings: [],
    });
  });

  test('without a database, or without a lock file, nothing is said to be good', async () => {
    const dir = await repo({ 'package.json': '{"dependencies":{"left":"*"}}', 'go.mod': 'module x' });
    expect((await scan(dir))['DEPENDENCIES']).toMatchObject({
      status: 'NOT_RUN',
      reason: expect.stringContaining('SWITCHYARD_ADVISORIES'),
    });
    const osvPath = await repo({ 'a.json': JSON.stringify(advisory('GHSA-1', {})) });
    expect((await scan(dir, { advisories: { osvPath } }))['DEPENDENCIES']).toMatchObject({
      status: 'PARTIAL',
      reason: 'package.json has no lock file: what would be installed is not known. Not covered: go.mod.',
    });
    expect((await scan(dir, { advisories: { osvPath: path.join(folder, 'nowhere') } }))['DEPENDENCIES']).toMatchObject({
      status: 'FAILED',
    });
  });
});

describe('Dockerfiles', () => {
  const rules = (text: string) =>
    lint('Dockerfile', text)
      .map(({ rule, severity }) => `${rule} ${severity}`)
      .toSorted();
  const good = `FROM node:24-slim@sha256:${'a'.repeat(64)}\n`;
  test.each([
    ['FROM node\nUSER node', ['DL3006 MEDIUM']],
    ['FROM registry.example.com:5000/node:latest\nUSER node', ['DL3007 MEDIUM']],
    ['ARG V=1\nFROM node:$V AS base\nUSER node\nFROM base\nUSER root', ['DL3002 HIGH']],
    ['FROM node:24 AS base\nUSER node\nFROM base', []],
    ['FROM node:24', ['no-user LOW']],
    ['FROM scratch\nCOPY a /a', []],
    [`${good}USER 1\nENV API_TOKEN=abc TOKEN_FILE=/x`, ['SecretsUsedInArgOrEnv HIGH']],
    [`${good}USER 1\nARG NPM_TOKEN`, ['SecretsUsedInArgOrEnv MEDIUM']],
    [`${good}USER 1\nADD https://example.com/x /x`, ['add-url HIGH']],
    [`${good}USER 1\nADD a.tar.gz /\nADD src /src`, ['DL3020 LOW']],
    [`${good}USER 1\nRUN apt-get update && \\\n  curl -fsSL https://x | bash -`, ['pipe-to-shell HIGH']],
    [`${good}USER 1\nRUN <<EOF\nwget -qO- https://x | sh\nEOF`, ['pipe-to-shell HIGH']],
    [
      `${good}USER 1\nRUN apt-get update && apt-get install -y curl && sudo chmod 777 /x`,
      ['DL3004 MEDIUM', 'DL3008 LOW'],
    ],
    [
      `${good}USER 1\nRUN apt-get install -y curl=8.1 && apk add git=2 && npm ci && npm install -g npm@11 && pip install -r x.txt`,
      [],
    ],
    [`${good}USER 1\nRUN curl -k https://x -o y\nRUN chmod 777 /x`, ['chmod-777 MEDIUM', 'tls-off HIGH']],
    [`${good}USER 1\nCOPY .env.example .env ./`, ['copy-secret HIGH']],
    [`${good}USER 1\nWORKDIR app`, ['DL3000 LOW']],
    ['FORM node', ['syntax INFO', 'syntax INFO']],
    ['', ['syntax INFO']],
  ])('%j', (text, expected) => {
    expect(rules(text)).toEqual(expected);
  });

  test('what is wrong in their syntax is told without their text', () => {
    const secret = 'HUNTER2';
    const wrong = [
      `SECRET_KEY=${secret}`, `FROM a ${secret} b`, `FROM a AS ?${secret}`, `EXPOSE ${secret}`, `EXPOSE 1/${secret}`,
      `STOPSIGNAL ${secret}`, `ADD --${secret}=x a b`, `COPY --chown --${secret} a b`, `ENV A=b ${secret}`,
      `ENV A='${secret}`, `ENV A="${secret}`, `ENV A=\${B:${secret}}`, `ONBUILD ${secret}`, `HEALTHCHECK ${secret}`,
      `HEALTHCHECK --interval=${secret} CMD x`, `HEALTHCHECK --interval=1${secret} CMD x`, `LABEL =${secret}`,
      `COPY --from=?${secret} a b`, `COPY --link=${secret} a b`, `HEALTHCHECK --retries=${secret} CMD x`,
    ]; // prettier-ignore
    for (const line of wrong) {
      const found = lint('Dockerfile', `${good}USER 1\n${line}`).filter(({ rule }) => rule === 'syntax');
      expect([line, found.length > 0]).toEqual([line, true]);
      for (const { title } of found) {
        expect(title.toUpperCase()).not.toContain(secret);
        expect([line, title]).not.toEqual([line, 'The syntax is not valid']);
      }
    }
    const [one, other] = ['A=1', 'B=2'].map((line) => lint('Dockerfile', `${good}USER 1\n${line}`)[0]?.identity);
    expect(one).not.toEqual(other);
  });
});

describe('Trivy', () => {
  const golden = (name: string) => readFile(path.join('test/fixtures/trivy', name), 'utf8');

  test('its report of schema 2 is read, without what it masks', async () => {
    const found = findingsOf(await golden('report.json'));
    expect(found).toHaveLength(4);
    expect(found).toMatchObject([
      { severity: 'HIGH', rule: 'CVE-2021-23337', title: 'nodejs-lodash: command injection via template', file: 'package-lock.json', packageName: 'lodash', installedVersion: '4.17.20', fixedVersion: '4.17.21', advisoryId: 'CVE-2021-23337', advisoryUrl: 'https://avd.aquasec.com/nvd/cve-2021-23337' }, // prettier-ignore
      { severity: 'INFO', rule: 'CVE-2099-0001', title: 'CVE-2099-0001', file: 'package-lock.json', packageName: 'left-pad', installedVersion: '1.0.0', fixedVersion: null, advisoryId: 'CVE-2099-0001', advisoryUrl: null }, // prettier-ignore
      { severity: 'HIGH', rule: 'DS002', title: "Image user should not be 'root'", file: 'Dockerfile', line: null, advisoryId: 'DS002', advisoryUrl: 'https://avd.aquasec.com/misconfig/ds002' }, // prettier-ignore
      { severity: 'CRITICAL', rule: 'github-pat', title: 'GitHub Personal Access Token in the source', file: 'config.js', line: 2 }, // prettier-ignore
    ]);
    expect(findingsOf(await golden('nothing.json'))).toEqual([]);
    for (const wrong of ['', '[]', '{"SchemaVersion":1}', '{"SchemaVersion":2,"Results":{}}'])
      expect(() => findingsOf(wrong)).toThrow(/^Trivy gave no/);
    expect(aboutOf(await golden('version.json'))).toEqual({
      version: 'Trivy 0.66.0',
      databaseDate: '2026-11-20T06:30:41.000Z',
    });
    expect(
      aboutOf('{"Version":"0.66.0","VulnerabilityDB":{"UpdatedAt":"0001-01-01T00:00:00Z"}}').databaseDate,
    ).toBeNull();
  });

  test('is run without a shell and outside of the repository, and its findings are told with its database', async () => {
    const fixtures = path.resolve('test/fixtures/trivy');
    const seen = path.join(folder, 'seen');
    const bin = await trivy(`if [ "$1" = version ]; then exec cat ${fixtures}/version.json; fi
      { pwd; env; for a in "$@"; do echo "arg $a"; done; } > ${seen}; exec cat ${fixtures}/report.json`);
    const dir = await repo({ 'trivy.yaml': 'exit-code: 1' });
    const recorded: ProcessIdentity[] = [];
    const { TRIVY } = await scan(dir, { ...trivyIn(bin), record: async (child) => void recorded.push(child) });
    expect(TRIVY).toMatchObject({
      status: 'RAN',
      version: 'Trivy 0.66.0',
      database: { date: '2026-11-20T06:30:41.000Z' },
      findings: { length: 4 },
    });
    const text = await readFile(seen, 'utf8');
    expect(text.split('\n')[0]).toBe(path.join(folder, 'cache', 'empty'));
    expect(text).toContain('arg --offline-scan\n');
    expect(text.trimEnd().split('\n').at(-1)).toBe(`arg ${dir}`);
    expect(text).not.toContain('DATABASE_URL');
    expect(recorded).toHaveLength(2);
  });

  test('missing, failing, late or chatty it is NOT_RUN or FAILED, and the others go on', async () => {
    const dir = await repo({ 'a.js': '' });
    const missing = await scan(dir, trivyIn(await repo({})));
    expect(missing['TRIVY']).toMatchObject({ status: 'NOT_RUN', reason: 'It is not installed on this host.' });
    expect(missing['SECRETS']?.status).toBe('RAN');
    const failing = await scan(
      dir,
      trivyIn(await trivy('for folder; do :; done; echo "FATAL: cannot read $folder/a.js" >&2; exit 3')),
    );
    expect(failing['TRIVY']).toMatchObject({
      status: 'FAILED',
      reason: 'Trivy ended with exit code 3. FATAL: cannot read …/a.js',
    });
    const late = await scan(dir, trivyIn(await trivy('exec sleep 1000'), { timeoutMs: 300 }));
    expect(late['TRIVY']).toMatchObject({ status: 'FAILED', reason: 'Trivy took longer than 0.3 s.' });
    const garbage = await scan(dir, trivyIn(await trivy('echo garbage')));
    expect(garbage['TRIVY']).toMatchObject({ status: 'FAILED' });
    await expect(createScanners({ advisories: { osvPath: null, registryUrl: null, allowLoopback: false }, ...trivyIn(dir, { mode: 'on', pathDirs: [dir] }) })).rejects.toThrow('SWITCHYARD_TRIVY is on'); // prettier-ignore
  });

  test('a signal ends it and the scan', async () => {
    const controller = new AbortController();
    const { promise: begun, resolve } = Promise.withResolvers<ProcessIdentity>();
    const bin = await trivy('exec sleep 1000');
    const over = scan(await repo({}), {
      ...trivyIn(bin),
      signal: controller.signal,
      record: async (child) => resolve(child),
    });
    const child = await begun;
    controller.abort(new Error('enough'));
    await expect(over).rejects.toThrow('enough');
    expect(await isAlive(child)).toBe(false);
  });
});

test('a thread that runs out of memory or time fails its scanner, and the event loop goes on', async () => {
  const dir = await repo({ Dockerfile: 'FROM node', 'package-lock.json': `{"lockfileVersion":3,"packages":{${Array.from({ length: 150_000 }, (_, i) => `"node_modules/p${i}":{"version":"1.0.${i}"}`).join(',')}}}` }); // prettier-ignore
  const osvPath = await repo({ 'a.json': JSON.stringify(advisory('GHSA-1', {})) });
  const short = await scan(dir, { advisories: { osvPath }, memoryMb: 24 });
  expect(short['DEPENDENCIES']).toMatchObject({ status: 'FAILED', reason: 'It needs more than 24 MiB.', findings: [] });
  expect(Object.keys(short)).toEqual(['SECRETS', 'DEPENDENCIES', 'DOCKERFILE', 'TRIVY']);
  const late = await scan(dir, { timeoutMs: 1 });
  expect(late['SECRETS']).toMatchObject({ status: 'FAILED', reason: 'It took longer than 0.001 s.' });
});
