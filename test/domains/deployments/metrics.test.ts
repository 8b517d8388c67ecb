import { rm } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { rollUpMetrics, evaluateAlerts } from '../../../src/domains/deployments/service/metrics.ts';
import { globalId } from '../../../src/kernel/graphql/global-id.ts';
import { person } from '../../support/actors.ts';
import { data, socket } from '../../support/client.ts';
import { until } from '../../support/embedded.ts';
import { startTestServer, testFolder, type TestServer } from '../../support/server.ts';
import { memberOf, nodeOf, tenant } from '../../support/world.ts';
import { livenessMs, plain, raw, repository, team, type Team } from './harness.ts';

let server: TestServer;
let folder: string;
beforeAll(async () => {
  folder = await testFolder();
  server = await startTestServer({ SWITCHYARD_METRICS_INTERVAL_S: '1' });
});
afterAll(async () => {
  await server.stop();
  await rm(folder, { recursive: true, force: true });
});

interface Point {
  readonly at: string;
  readonly samples: number;
  readonly cpus: number | null;
  readonly cpusMost: number | null;
  readonly memoryBytes: number | null;
  readonly memoryBytesMost: number | null;
  readonly diskWrittenBytes: number | null;
  readonly networkSentBytes: number | null;
  readonly probes: number;
  readonly healthy: number;
  readonly latencyMs: number | null;
  readonly missing: readonly { readonly figure: string; readonly reason: string }[];
}
const fields =
  'at samples cpus cpusMost memoryBytes memoryBytesMost diskWrittenBytes networkSentBytes probes healthy latencyMs missing { figure reason }';

async function metrics(on: Team, id: string, args = ''): Promise<{ resolution: string; points: Point[] }> {
  const { node } = await data<{ node: { metrics: { resolution: string; points: Point[] } } }>(
    on.url,
    `query ($id: ID!) { node(id: $id) { ... on Application { metrics${args} { resolution points { ${fields} } } } } }`,
    { id },
    on.who,
  );
  return node.metrics;
}

interface Waiting {
  readonly id: string;
  readonly kind: string;
  readonly title: string;
  readonly status: string;
  readonly subjectId: string;
}
async function inbox(on: Team, status = 'OPEN'): Promise<Waiting[]> {
  const { node } = await data<{ node: { inbox: { nodes: Waiting[] } } }>(
    on.url,
    `query ($id: ID!) { node(id: $id) { ... on Workspace { inbox(status: ${status}, first: 50) { nodes { id kind title status subjectId } } } } }`,
    { id: on.workspaceId },
    on.who,
  );
  return node.inbox.nodes;
}

/** Points over a WebSocket, as they come. */
function watch(on: Team, applicationId: string, after: string | null, who = on.who) {
  const points: Point[] = [];
  const errors: string[] = [];
  const closed: number[] = [];
  const client = socket(on.url, who, { lazy: true, on: { closed: (event) => void closed.push((event as { code: number }).code) } }); // prettier-ignore
  client.subscribe<{ metricsUpdated: Point }>(
    {
      query: `subscription ($id: ID!, $after: DateTime) { metricsUpdated(applicationId: $id, after: $after) { ${fields} } }`,
      variables: { id: applicationId, after },
    },
    {
      next: ({ data: given, errors: told }) => {
        if (given) points.push(given.metricsUpdated);
        errors.push(...(told ?? []).map(({ message }) => message));
      },
      error: (error) => void errors.push(JSON.stringify(error)),
      complete: () => undefined,
    },
  );
  return { points, errors, closed, close: () => client.dispose() };
}

describe('a real instance', () => {
  // Holds 80 MB, works a while for each request, and is ill when it was told to be.
  const program = `
const { createServer } = require('node:http');
const held = Buffer.alloc(80_000_000, 1);
let ill = false;
const server = createServer((request, response) => {
  if (request.url === '/ill') ill = true;
  if (request.url === '/work') for (const end = Date.now() + 1500; Date.now() < end;);
  response.statusCode = ill && request.url === '/' ? 503 : 200;
  response.end(String(held.length));
});
server.listen(Number(process.env.PORT), '127.0.0.1');
process.once('SIGTERM', () => process.exit(0));
`;
  let on: Team;
  let id: string;
  beforeAll(async () => {
    on = await team(server.url);
    const source = await repository(folder, 'measured');
    await source.commit({ ...plain, 'server.js': program });
    id = await on.application({ name: 'measured', repositoryUrl: source.url });
    const { phase, statusReason } = await on.deploy(id);
    if (phase !== 'DEPLOYED') throw new Error(`${phase}: ${statusReason}`);
  });

  test('is looked at: figures that are known, and reasons for those that are not', async () => {
    const stream = watch(on, id, null);
    await until('it was looked at twice', async () => (await metrics(on, id)).points.length >= 2, livenessMs);
    const { resolution, points } = await metrics(on, id);
    expect(resolution).toBe('LOOK');
    const last = points.at(-1);
    expect(last).toMatchObject({ samples: 1, probes: 1, healthy: 1, networkSentBytes: null });
    expect(last?.memoryBytes).toBeGreaterThan(80_000_000);
    expect(last?.latencyMs).toBeGreaterThan(0);
    expect(last?.missing).toContainEqual({ figure: 'NETWORK', reason: 'SHARED_WITH_HOST' });
    expect(points[0]?.missing).toContainEqual({ figure: 'CPU', reason: 'FIRST_LOOK' });
    expect(points[0]?.cpus).toBeNull();
    await on.answer(id, '/work');
    await until('its work is seen', async () => (await metrics(on, id)).points.some(({ cpus }) => (cpus ?? 0) > 0.2), livenessMs); // prettier-ignore

    // Each of them once and in order, also for one that comes later and has some already.
    await until('they are streamed', async () => stream.points.length >= 3, livenessMs);
    const times = stream.points.map(({ at }) => at);
    expect(times).toEqual([...new Set(times)].toSorted());
    const late = watch(on, id, times[0] ?? null);
    await until('what it missed is told', async () => late.points.length >= 2, livenessMs);
    expect(late.points[0]?.at).toBe(times[1]);
    expect([...stream.errors, ...late.errors]).toEqual([]);
    await Promise.all([stream.close(), late.close()]);
  });

  test('one that does not answer well is told so, and is never healthy by guess', async () => {
    await on.answer(id, '/ill');
    await until('it is seen to be ill', async () => (await metrics(on, id)).points.at(-1)?.healthy === 0, livenessMs);
    expect((await metrics(on, id)).points.at(-1)).toMatchObject({ probes: 1, healthy: 0, latencyMs: null });
  });

  test('one that dies is started again, and the rule about restarts opens an inbox item', async () => {
    const rule = `mutation ($input: SetAlertRuleInput!) { setAlertRule(input: $input) { __typename ... on SetAlertRuleSuccess { rule { id } } } }`;
    const input = { applicationId: id, condition: 'RESTARTS', threshold: 1, windowS: 3600 };
    await data(on.url, rule, { input }, on.who);
    const row = await server.running.app.db.release.findFirstOrThrow({ where: { activeOf: { id: raw('Application', id) } } }); // prettier-ignore
    process.kill(-(row.instance as { pid: number }).pid, 'SIGKILL');
    await until('a person is told', async () => (await inbox(on)).some(({ title }) => title === 'measured: 1 restarts within 3600 s'), livenessMs); // prettier-ignore
    const [item] = await inbox(on);
    expect(item).toMatchObject({ kind: 'deployments.alert', subjectId: id });
  });

  test('strangers are told nothing of it; who loses the right loses the stream', async () => {
    const stranger = await person(server.url);
    const refused = watch(on, id, null, stranger);
    await until('the stranger is refused', async () => refused.errors.length > 0, livenessMs);
    expect(refused.errors.join()).toMatch(/^There is no Application/);
    expect(refused.points).toEqual([]);
    const { app } = server.running;
    const member = await memberOf(app, { id: raw('Workspace', on.workspaceId) }, 'VIEWER');
    const stream = watch(on, id, null, member as never);
    await until('the member is told', async () => stream.points.length > 0, livenessMs);
    const membership = await app.db.membership.findFirstOrThrow({ where: { userId: member.id } });
    await data(
      on.url,
      `mutation ($id: ID!) { removeMember(input: { membershipId: $id }) { __typename } }`,
      { id: globalId('Membership', membership.id) },
      on.who,
    );
    await until('the stream ended', async () => stream.closed.length > 0, livenessMs);
    expect(stream.closed).toContain(4403);
    await Promise.all([refused.close(), stream.close()]);
  });
});

describe('rows alone', () => {
  /** An application with points of a length of time, one each `everyS` seconds up to now. */
  async function measured(
    make: (ageS: number) => { healthy?: number; memory?: number; cpu?: number | null },
    lengthS: number,
    everyS = 15,
  ) {
    // prettier-ignore
    const { app } = server.running;
    const of = await tenant(app, 'measured');
    const applicationId = await nodeOf(app, of, 'Application').then((id) => raw('Application', id));
    await app.db.application.update({ where: { id: applicationId }, data: { hostId: of.hostId } });
    const now = Date.now();
    const ages = Array.from({ length: Math.floor(lengthS / everyS) }, (_, index) => index * everyS + 1);
    await app.db.metricPoint.createMany({
      data: ages.map((ageS) => {
        const { healthy = 1, memory = 50, cpu = 100 } = make(ageS);
        return {
          applicationId,
          spanS: 0,
          at: new Date(now - ageS * 1000),
          samples: 1,
          milliCpus: cpu,
          milliCpusMost: cpu,
          memoryBytes: memory,
          memoryBytesMost: memory,
          memoryLimitBytes: 100,
          diskReadBytes: 1,
          probes: 1,
          healthy,
          latencyMs: healthy ? 10 : null,
          missing: cpu === null ? ['CPU:FIRST_LOOK'] : [],
        };
      }),
    });
    const rule = (condition: 'UNHEALTHY' | 'MEMORY' | 'CPU', threshold: number, windowS: number) =>
      app.db.alertRule.create({
        data: { workspaceId: of.id, applicationId, condition, threshold, windowS },
      });
    const open = () =>
      app.db.inboxItem.findMany({ where: { workspaceId: of.id, status: 'OPEN' }, select: { title: true } });
    return { app, of, applicationId, rule, open, evaluate: () => evaluateAlerts(app, of.hostId) };
  }

  test('a rule opens one item while it holds, and closes it when it does not', async () => {
    const { app, applicationId, rule, open, evaluate, of } = await measured(() => ({ healthy: 0, memory: 95 }), 600);
    await rule('UNHEALTHY', 100, 60);
    await rule('MEMORY', 90, 300);
    await rule('CPU', 200, 60);
    await Promise.all([evaluate(), evaluate()]);
    await evaluate();
    expect((await open()).map(({ title }) => title.replace(/^[^:]*: /, '')).toSorted()).toEqual([
      '100 % of the health checks of 60 s failed',
      '95 % of its memory in use for 300 s',
    ]);
    await app.db.metricPoint.updateMany({ where: { applicationId }, data: { healthy: 1 } });
    await evaluate();
    expect(await open()).toHaveLength(1);
    const events = await app.db.event.findMany({ where: { workspaceId: of.id, type: { startsWith: 'inbox.' } } });
    expect(events.map(({ type, to }) => `${type} ${to ?? ''}`.trim())).toEqual(['inbox.opened', 'inbox.opened', 'inbox.closed RESOLVED']); // prettier-ignore
  });

  test('an item that was put away comes back when the rule has ceased to hold and holds again', async () => {
    const { app, applicationId, rule, open, evaluate, of } = await measured(() => ({ memory: 95 }), 600);
    await rule('MEMORY', 90, 300);
    await evaluate();
    const item = await app.db.inboxItem.findFirstOrThrow({ where: { workspaceId: of.id } });
    const dismiss = `mutation ($id: ID!) { dismissInboxItem(input: { id: $id }) { __typename ... on DismissInboxItemSuccess { item { status closedBy { id } } } } }`;
    const variables = { id: globalId('InboxItem', item.id) };
    expect(await data(server.url, dismiss, variables, of.owner)).toEqual({
      dismissInboxItem: {
        __typename: 'DismissInboxItemSuccess',
        item: { status: 'DISMISSED', closedBy: { id: globalId('User', of.owner.id) } },
      },
    });
    await evaluate();
    expect(await open()).toEqual([]);
    const memory = (memoryBytes: number) => app.db.metricPoint.updateMany({ where: { applicationId }, data: { memoryBytes } }); // prettier-ignore
    await memory(10);
    await evaluate();
    await memory(95);
    await evaluate();
    expect(await open()).toHaveLength(1);
  });

  test('a moment is no window: what was not looked at for long enough does not hold', async () => {
    const { rule, open, evaluate } = await measured(() => ({ healthy: 0 }), 45);
    await rule('UNHEALTHY', 100, 60);
    await evaluate();
    expect(await open()).toEqual([]);
  });

  test('looks become minutes, minutes hours; twice is the same as once; what is old goes', async () => {
    const { app, applicationId } = await measured((ageS) => ({ cpu: ageS < 20 ? null : 100, healthy: 1 }), 3 * 3600);
    const old = { applicationId, samples: 1, probes: 1, healthy: 1 };
    const ago = (hours: number) => new Date(Date.now() - hours * 3_600_000);
    await app.db.metricPoint.createMany({
      data: [
        { ...old, spanS: 0, at: ago(25) },
        { ...old, spanS: 60, at: ago(15 * 24) },
        { ...old, spanS: 3600, at: ago(401 * 24) },
      ],
    });
    const context = { app, signal: AbortSignal.timeout(60_000), attempt: 1 };
    await rollUpMetrics.handle({}, context);
    const all = () => app.db.metricPoint.findMany({ where: { applicationId, spanS: { gt: 0 } }, orderBy: [{ spanS: 'asc' }, { at: 'asc' }] }); // prettier-ignore
    const once = await all();
    await rollUpMetrics.handle({}, context);
    expect(await all()).toEqual(once);
    const minute = once.find(({ spanS, at }) => spanS === 60 && at > ago(2));
    expect(minute).toMatchObject({ samples: 4, probes: 4, healthy: 4, milliCpus: 100, memoryBytes: 50, diskReadBytes: 4, latencyMs: 10 }); // prettier-ignore
    const hour = once.find(({ spanS, at }) => spanS === 3600 && at > ago(2.5));
    expect(hour).toMatchObject({ samples: 240, diskReadBytes: 240, milliCpus: 100 });
    const tooOld = [
      { spanS: 0, at: { lt: ago(24.5) } },
      { spanS: 60, at: { lt: ago(14.5 * 24) } },
      { spanS: 3600, at: { lt: ago(400.5 * 24) } },
    ];
    expect(await app.db.metricPoint.count({ where: { applicationId, OR: tooOld } })).toBe(0);
    expect(await app.db.metricPoint.count({ where: { applicationId, spanS: 3600, at: { lt: ago(14.5 * 24) } } })).toBe(
      1,
    );
    // A span that is not over is no point yet.
    expect(once.every(({ spanS, at }) => at.getTime() + spanS * 1000 <= Date.now())).toBe(true);
  });
});
