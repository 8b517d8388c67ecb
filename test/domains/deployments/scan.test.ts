import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { phases } from '../../../src/domains/deployments/model.ts';
import { member as memberOf } from '../../support/actors.ts';
import { data } from '../../support/client.ts';
import { until } from '../../support/embedded.ts';
import { mutate } from '../../support/mutate.ts';
import { startTestServer, testFolder, type TestServer } from '../../support/server.ts';
import { answering, livenessMs, plain, raw, repository, team, type Team } from './harness.ts';

// Several deployments each: a test gives up after four of those that hang.
vi.setConfig({ testTimeout: 4 * livenessMs });

let server: TestServer;
let folder: string;
let advisories: string;
let on: Team;
/** A registry that knows nothing; `silent`: it does not even say so. */
let silent = false;
let waiting = 0;
const registry = createServer((request, response) => {
  request.resume();
  if (!silent) return void response.end('{}');
  waiting += 1;
  response.once('close', () => (waiting -= 1));
});
beforeAll(async () => {
  folder = await testFolder();
  advisories = path.join(folder, 'osv');
  await mkdir(advisories);
  await writeFile(path.join(advisories, 'GHSA-aaaa-bbbb-cccc.json'), JSON.stringify(advisory));
  registry.listen(0, '127.0.0.1');
  await once(registry, 'listening');
  server = await startTestServer({
    SWITCHYARD_ADVISORIES: advisories,
    SWITCHYARD_ADVISORY_REGISTRY: `http://127.0.0.1:${(registry.address() as AddressInfo).port}`,
    SWITCHYARD_ALLOW_LOOPBACK: 'true',
    SWITCHYARD_TRIVY: 'off',
  });
  on = await team(server.url);
});
afterAll(async () => {
  await server.stop();
  registry.closeAllConnections();
  registry.close();
  await rm(folder, { recursive: true, force: true });
});

const advisory = {
  id: 'GHSA-aaaa-bbbb-cccc',
  modified: '2026-01-02T03:04:05Z',
  summary: 'Command injection',
  affected: [
    {
      package: { ecosystem: 'npm', name: 'lodash' },
      ranges: [{ type: 'SEMVER', events: [{ introduced: '0' }, { fixed: '4.17.21' }] }],
    },
  ],
  database_specific: { severity: 'HIGH' },
};
const lock = (version: string) =>
  JSON.stringify({ lockfileVersion: 3, packages: { '': {}, 'node_modules/lodash': { version } } });
// Put together here, so that this file itself is no finding.
const token = ['gh', 'p_', 'aB3dE6gH9j'.repeat(4).slice(0, 36)].join('');

interface Scan {
  readonly status: string;
  readonly verdict: string;
  readonly scanners: readonly { scanner: string; status: string; reason: string | null; database: { name: string; date: string; ageDays: number } | null }[]; // prettier-ignore
  readonly counts: readonly { severity: string; open: number; suppressed: number }[];
  readonly findings: {
    readonly totalCount: number;
    readonly nodes: readonly Record<string, unknown>[];
  };
}
const scanOf = async (id: string, args = ''): Promise<Scan | null> =>
  (
    await data<{ node: { securityScan: Scan | null } }>(
      server.url,
      `query ($id: ID!) { node(id: $id) { ... on Deployment { securityScan { status verdict blockAtSeverity
        scanners { scanner status reason version covers notes database { name date ageDays } }
        counts { severity open suppressed }
        findings${args} { totalCount nodes { fingerprint scanner severity rule title file line packageName
          installedVersion fixedVersion advisoryId advisoryUrl blocking firstSeenAt
          suppression { reason at expiresAt by { id } } } } } } } }`,
      { id },
      on.who,
    )
  ).node.securityScan;

let made = 0;
async function fresh(files: Readonly<Record<string, string>>) {
  const name = `scanned-${++made}`;
  const source = await repository(folder, name);
  await source.commit({ ...plain, 'server.js': answering(name), ...files });
  return { id: await on.application({ name, repositoryUrl: source.url, buildCommand: 'true' }), source };
}
const say = (verb: string, input: object, who = on.who, fields = 'application { id }') =>
  mutate(server.url, verb, input, who, fields);
const eventsOf = async (runId: string) =>
  server.running.app.db.event.findMany({ where: { runId: raw('Run', runId) }, orderBy: { seq: 'asc' } });

test('findings stop a deployment, are suppressed with a reason, and then do not; what served serves on', async () => {
  const { id, source } = await fresh({ 'package-lock.json': lock('4.17.21') });
  const good = await on.deploy(id);
  expect(good).toMatchObject({ phase: 'DEPLOYED' });
  expect(good.steps.map(({ name }) => name)).toEqual(['fetch', 'scan', 'build', 'start', 'health', 'activate', 'rollback']); // prettier-ignore
  expect(await scanOf(good.id)).toMatchObject({
    status: 'COMPLETE',
    verdict: 'PASSED',
    findings: { totalCount: 0 },
    scanners: [
      { scanner: 'SECRETS', status: 'RAN' },
      { scanner: 'DEPENDENCIES', status: 'RAN', database: { name: expect.stringMatching(/^OSV, 1 advisories for npm; Advisories of the registry 127/), date: '2026-01-02T03:04:05.000Z', ageDays: expect.any(Number) } }, // prettier-ignore
      { scanner: 'DOCKERFILE', status: 'RAN' },
      { scanner: 'TRIVY', status: 'OFF', reason: 'The operator has turned it off.' },
    ],
  });
  const moves = (await eventsOf(good.id)).flatMap(({ type, to }) =>
    type.startsWith('deployment.step') || type === 'deployment.securityScanned' ? [] : (to ?? []),
  );
  expect(moves).toEqual(['PENDING', 'SECURITY_SCANNING', 'BUILDING', 'DEPLOYING', 'HEALTH_CHECKING', 'DEPLOYED']);

  await source.commit({
    'package-lock.json': lock('4.17.20'),
    'config.js': `\nmodule.exports = '${token}';\n`,
    Dockerfile: 'FROM node:24@sha256:' + 'a'.repeat(64) + '\nUSER 1000\nRUN curl https://example.com/x | sh\n',
    'server.js': answering('next'),
  });
  // Without a policy findings are told and stop nothing.
  const told = await on.deploy(id);
  expect(told).toMatchObject({ phase: 'DEPLOYED' });
  expect(await scanOf(told.id)).toMatchObject({ status: 'COMPLETE', verdict: 'PASSED', findings: { totalCount: 3 } });
  expect(await on.answer(id)).toBe('next');

  expect((await say('setScanPolicy', { applicationId: id, blockAtSeverity: 'HIGH' })).__typename).toBe('SetScanPolicySuccess'); // prettier-ignore
  await source.commit({ 'server.js': answering('never') });
  const blocked = await on.deploy(id);
  expect(blocked).toMatchObject({ phase: 'FAILED', status: 'FAILED', release: null });
  expect(blocked.statusReason).toMatch(/^The security scan found 3 that stop it: CRITICAL github\/GITHUB_TOKEN in config\.js:2: /); // prettier-ignore
  expect(blocked.statusReason).toContain('HIGH GHSA-aaaa-bbbb-cccc lodash 4.17.20 in package-lock.json: Command injection'); // prettier-ignore
  expect(blocked.steps.find(({ name }) => name === 'scan')?.status).toBe('FAILED');
  expect(blocked.steps.find(({ name }) => name === 'build')?.status).not.toBe('SUCCEEDED');
  expect(await on.answer(id)).toBe('next');
  const scan = await scanOf(blocked.id);
  expect(scan).toMatchObject({
    verdict: 'BLOCKED_BY_FINDINGS',
    blockAtSeverity: 'HIGH',
    counts: [
      { severity: 'CRITICAL', open: 1, suppressed: 0 },
      { severity: 'HIGH', open: 2, suppressed: 0 },
      { severity: 'MEDIUM', open: 0, suppressed: 0 },
      { severity: 'LOW', open: 0, suppressed: 0 },
      { severity: 'INFO', open: 0, suppressed: 0 },
    ],
  });
  expect(scan?.findings.nodes).toMatchObject([
    { scanner: 'SECRETS', severity: 'CRITICAL', file: 'config.js', line: 2, blocking: true, suppression: null },
    { scanner: 'DEPENDENCIES', severity: 'HIGH', packageName: 'lodash', installedVersion: '4.17.20', fixedVersion: '4.17.21', advisoryUrl: 'https://osv.dev/vulnerability/GHSA-aaaa-bbbb-cccc' }, // prettier-ignore
    { scanner: 'DOCKERFILE', severity: 'HIGH', rule: 'pipe-to-shell', file: 'Dockerfile', line: 3 },
  ]);
  // The same things in both commits, first seen in the earlier one.
  const earlier = await scanOf(told.id);
  expect(scan?.findings.nodes.map((one) => [one['fingerprint'], one['firstSeenAt']])).toEqual(
    earlier?.findings.nodes.map((one) => [one['fingerprint'], one['firstSeenAt']]),
  );
  const event = (await eventsOf(blocked.id)).find(({ type }) => type === 'deployment.securityScanned');
  expect(event?.data).toEqual({ complete: true, verdict: 'BLOCKED_BY_FINDINGS', suppressed: 0, counts: { CRITICAL: 1, HIGH: 2, MEDIUM: 0, LOW: 0, INFO: 0 } }); // prettier-ignore
  // Neither the log nor any row has the secret.
  const { db } = server.running.app;
  const everything = JSON.stringify([
    blocked,
    scan,
    await db.finding.findMany(),
    await db.knownFinding.findMany(),
    await db.securityScan.findMany(),
    await db.logLine.findMany({ select: { text: true } }),
    await db.event.findMany({ select: { data: true } }),
  ]);
  expect(everything).toContain('CRITICAL github/GITHUB_TOKEN');
  expect(everything).not.toContain(token.slice(4, 14));

  for (const { fingerprint } of scan?.findings.nodes ?? []) {
    const input = { applicationId: id, fingerprint, reason: 'A test.', expiresAt: '2999-01-01T00:00:00.000Z' };
    expect((await say('suppressFinding', input)).__typename).toBe('SuppressFindingSuccess');
  }
  const retried = await on.over((await on.retry(blocked.id)).run?.id ?? '');
  expect(retried).toMatchObject({ phase: 'DEPLOYED', trigger: 'RETRY' });
  expect(await on.answer(id)).toBe('never');
  expect(await scanOf(retried.id, '(suppressed: false)')).toMatchObject({ verdict: 'PASSED', findings: { totalCount: 0 } }); // prettier-ignore
  const after = await scanOf(retried.id, '(suppressed: true, severity: [CRITICAL])');
  expect(after?.counts[0]).toEqual({ severity: 'CRITICAL', open: 0, suppressed: 1 });
  expect(after?.findings.nodes).toMatchObject([
    { blocking: false, suppression: { reason: 'A test.', by: { id: expect.any(String) }, expiresAt: '2999-01-01T00:00:00.000Z' } }, // prettier-ignore
  ]);

  // One that has ended counts again, and so does one that is taken back.
  const [secret, dependency] = (scan?.findings.nodes ?? []).map((one) => String(one['fingerprint']));
  await db.knownFinding.updateMany({
    where: { fingerprint: secret ?? '' },
    data: { expiresAt: new Date(Date.now() - 1) },
  });
  expect((await say('unsuppressFinding', { applicationId: id, fingerprint: dependency })).__typename).toBe('UnsuppressFindingSuccess'); // prettier-ignore
  expect((await scanOf(retried.id))?.counts.map(({ open }) => open)).toEqual([1, 1, 0, 0, 0]);
  const again = await on.deploy(id);
  expect(again.statusReason).toMatch(/^The security scan found 2 that stop it/);
  // A rollback brings back what was scanned before: it is not asked again.
  const back = await on.rollback({ applicationId: id });
  const restored = await on.over(back.deployment?.id ?? '');
  expect(restored).toMatchObject({ phase: 'DEPLOYED' });
  expect(restored.steps.map(({ name }) => name)).toEqual(['start', 'health', 'activate', 'rollback']);
  expect(await scanOf(restored.id)).toBeNull();
});

test('a scanner that fails leaves the scan incomplete: it says so, and stops only what wants all', async () => {
  const { id } = await fresh({ 'package-lock.json': lock('4.17.20') });
  const broken = path.join(advisories, 'GHSA-aaaa-bbbb-cccc.json');
  await writeFile(broken, '{"modified": "');
  try {
    const done = await on.deploy(id);
    expect(done).toMatchObject({ phase: 'DEPLOYED' });
    expect(await scanOf(done.id)).toMatchObject({
      status: 'INCOMPLETE',
      verdict: 'PASSED',
      scanners: [{ status: 'RAN' }, { status: 'FAILED', reason: 'It failed: The database has no OSV advisory for npm.', database: null }, { status: 'RAN' }, {}], // prettier-ignore
    });
    expect(done.logs.nodes.map(({ text }) => text)).toContain('DEPENDENCIES FAILED. It failed: The database has no OSV advisory for npm.'); // prettier-ignore
    await say('setScanPolicy', { applicationId: id, requireCompleteScan: true });
    const refused = await on.deploy(id);
    expect(refused).toMatchObject({
      phase: 'FAILED',
      statusReason: 'The security scan is not complete. DEPENDENCIES FAILED: It failed: The database has no OSV advisory for npm.', // prettier-ignore
    });
    expect(await scanOf(refused.id)).toMatchObject({ verdict: 'BLOCKED_AS_INCOMPLETE' });
  } finally {
    await writeFile(broken, JSON.stringify(advisory));
  }
  expect(await on.deploy(id)).toMatchObject({ phase: 'DEPLOYED' });
});

test('a canceled scan ends at once', async () => {
  const { id } = await fresh({ 'package-lock.json': lock('4.17.20') });
  silent = true;
  try {
    const asked = await on.createDeployment({ applicationId: id });
    const runId = asked.deployment?.id ?? '';
    await until('the registry is asked', () => Promise.resolve(waiting > 0), livenessMs);
    expect(await on.deployment(runId)).toMatchObject({ phase: 'SECURITY_SCANNING' });
    const begun = performance.now();
    await on.cancel(runId);
    const over = await on.over(runId);
    console.log(`MEASURED a canceled scan was over after ${Math.round(performance.now() - begun)} ms`);
    expect(over).toMatchObject({ phase: 'CANCELED', status: 'CANCELED' });
    expect(over.steps.find(({ name }) => name === 'scan')?.status).toBe('CANCELED');
    expect(await scanOf(runId)).toBeNull();
    // The thread that waited is gone, with its connection.
    await until('nobody waits', () => Promise.resolve(waiting === 0), livenessMs);
  } finally {
    silent = false;
  }
  expect(await on.deploy(id)).toMatchObject({ phase: 'DEPLOYED' });
});

test('only administrators decide, nobody of another workspace, and only about what was found', async () => {
  const { id } = await fresh({ 'package-lock.json': lock('4.17.20') });
  const done = await on.deploy(id);
  const [finding] = (await scanOf(done.id))?.findings.nodes ?? [];
  const input = { applicationId: id, fingerprint: finding?.['fingerprint'], reason: 'Because.' };
  const member = await memberOf(server.url, on.who, on.workspaceId, 'MEMBER');
  const other = await team(server.url);
  const foreign = await other.application({ name: 'foreign', repositoryUrl: 'https://example.com/x.git' });
  for (const [verb, what] of [
    ['suppressFinding', input],
    ['unsuppressFinding', { applicationId: id, fingerprint: input.fingerprint }],
    ['setScanPolicy', { applicationId: id, blockAtSeverity: 'LOW' }],
  ] as const) {
    expect((await say(verb, what, member)).__typename).toBe('Forbidden');
    expect((await say(verb, what, other.who)).__typename).toBe('NotFound');
  }
  // The same fingerprint in another application is another finding, which nobody has seen.
  expect((await say('suppressFinding', { ...input, applicationId: foreign }, other.who)).__typename).toBe('NotFound');
  expect((await say('suppressFinding', { ...input, fingerprint: 'f'.repeat(64) })).__typename).toBe('NotFound');
  for (const wrong of [{ reason: ' ' }, { fingerprint: 'x' }, { expiresAt: '2001-01-01T00:00:00.000Z' }])
    expect((await say('suppressFinding', { ...input, ...wrong })).__typename).toBe('ValidationError');
  expect((await say('suppressFinding', input)).__typename).toBe('SuppressFindingSuccess');
  const { node } = await data<{ node: { suppressedFindings: { totalCount: number; nodes: object[] } } }>(
    server.url,
    `query ($id: ID!) { node(id: $id) { ... on Application { suppressedFindings { totalCount nodes {
      fingerprint suppression { reason } latest { rule packageName } } } } } }`,
    { id },
    member,
  );
  expect(node.suppressedFindings).toEqual({
    totalCount: 1,
    nodes: [{ fingerprint: input.fingerprint, suppression: { reason: 'Because.' }, latest: { rule: advisory.id, packageName: 'lodash' } }], // prettier-ignore
  });
  const events = await server.running.app.db.event.findMany({ where: { subjectId: raw('Application', id) } });
  expect(events.find(({ type }) => type === 'application.findingSuppressed')).toMatchObject({
    actorId: raw('User', on.who.id),
    data: { fingerprint: input.fingerprint, expiresAt: null },
  });
});

test('the database knows the phases of the model, and no others', async () => {
  const [row] = await server.running.app.db.$queryRaw<{ rule: string }[]>`
    select pg_get_constraintdef(oid) as rule from pg_constraint where conname = 'run_deployment_phase'`;
  const known = [...(row?.rule ?? '').matchAll(/'([A-Z_]+)'/g)].map(([, name]) => name ?? '').toSorted();
  expect(known).toEqual(Object.keys(phases).toSorted());
});
