import { setTimeout as delay } from 'node:timers/promises';
import type { Contender, Running } from '../contenders/index.ts';
import { applicationOf, globalId, rowId, workspaceOf, type Shape } from '../data/shape.ts';
import { Subscribers } from '../load/subscribers.ts';
import type { Report, Subscriber } from '../load/subscriber.ts';
import { quantile, spent } from '../measure.ts';
import type { Sample } from '../report/results.ts';
import type { Bench } from './bench.ts';
import { normalised } from './documents.ts';
import { AnswersDiffer } from './http.ts';
import { Publisher } from './publisher.ts';

export const liveWorkloads = {
  S1: 'deliveries of one stream to all subscribers, events committed one after another',
  L1: 'latency from the making of an event to the client, S1 at half of its saturation',
  S2: 'deliveries of streams with one subscriber each',
  S3: 'deliveries of a mixed dashboard: ten documents on each socket, people with rights of their own',
  R1: 'replay of 10,000 events to late subscribers',
  K1: 'idle sockets that live on, and one event for all of them',
} as const;
export type LiveWorkload = keyof typeof liveWorkloads;
export const isLiveWorkload = (name: string): name is LiveWorkload => name in liveWorkloads;

const fields = 'seq type from to subjectId at data';
const events = (selection: string, filter = ''): string =>
  `workspaceEvents(workspaceId: $id${filter}) { ... on Event { ${selection} } }`;
const updates = (selection: string): string =>
  `deploymentUpdated(of: $id) { ... on DeploymentUpdate { event { data } ${selection} } }`;
const one = `subscription S1($id: ID!) { ${events(fields)} }`;
const late = `subscription R1($id: ID!, $after: String) { workspaceEvents(workspaceId: $id, after: $after) { ... on Event { ${fields} } } }`;
const ofRun = `subscription S2($id: ID!, $after: String) { runEvents(id: $id, after: $after) { ... on Event { ${fields} } } }`;
const only = ', filter: { types: ["deployment.building"] }';
const dashboard = [
  events('type to data'),
  events(fields),
  events('type subjectId runId data run { status }'),
  events('data run { id status ... on Deployment { application { name } } }'),
  events('type data run { createdAt actor { name } }'),
  updates('deployment { id status }'),
  updates('deployment { status ref application { name workspace { name } } }'),
  updates('deployment { status steps { name status } }'),
  events('type at data', only),
  events('type to data run { status createdAt }', only),
].map((field, index) => `subscription D${index}($id: ID!) { ${field} }`);

/** Events that are published before anything is measured. */
const warming = 5;

interface Setting {
  readonly subscribers: readonly Subscriber[];
  /** Publishes once, to all. */
  readonly publish: () => Promise<void>;
  /** Messages that come of it. */
  readonly messages: number;
  /** Times that it is published while measured. */
  readonly times: number;
}

/** A place in a workspace's log, as the server writes it. */
const cursorOf = (workspaceId: string, epoch: number, seq: bigint): string =>
  Buffer.from(JSON.stringify([workspaceId, epoch, String(seq)])).toString('base64url');

/** The k-th deployment that streams are of; they are spread over the workspaces. */
function run(shape: Shape, k: number): { readonly id: string; readonly workspace: number } {
  const i = 2 * k;
  return { id: rowId('deployment', i), workspace: workspaceOf(shape, applicationOf(shape, i)) };
}

async function settingOf(workload: LiveWorkload, { bench, contender, publisher }: Turn): Promise<Setting> {
  const { shape, options } = bench;
  const workspaceId = rowId('workspace', 1);
  const first = Array.from({ length: shape.deployments / 2 }, (_, k) => run(shape, k + 1)).find(({ workspace }) => workspace === 1); // prettier-ignore
  const toAll = (count: number): Setting => ({
    subscribers: Array.from({ length: count }, () => ({
      authorization: contender.authorization(1),
      subscriptions: [{ query: one, variables: { id: globalId('Workspace', workspaceId) } }],
    })),
    publish: () => publisher.publish(workspaceId, [first?.id ?? '']),
    messages: count,
    times: 50,
  });
  switch (workload) {
    case 'S1':
    case 'L1':
    case 'R1':
      return toAll(options.subscribers);
    case 'K1':
      return toAll(options.sockets);
    case 'S2': {
      const count = Math.min(options.subscribers, shape.deployments / 2);
      const runs = Array.from({ length: count }, (_, k) => run(shape, k + 1));
      const byWorkspace = Map.groupBy(runs, ({ workspace }) => workspace);
      // From now on: a stream of all that there was would end with what ended the run.
      const now = new Map<number, string>();
      for (const workspace of byWorkspace.keys()) {
        const id = rowId('workspace', workspace);
        const { seq, epoch } = await publisher.head(id);
        now.set(workspace, cursorOf(id, epoch, seq));
      }
      return {
        subscribers: runs.map(({ id, workspace }) => ({
          authorization: contender.authorization(workspace),
          subscriptions: [{ query: ofRun, variables: { id: globalId('Deployment', id), after: now.get(workspace) } }],
        })),
        async publish() {
          for (const [workspace, some] of byWorkspace)
            await publisher.publish(rowId('workspace', workspace), some.map(({ id }) => id)); // prettier-ignore
        },
        messages: count,
        times: 10,
      };
    }
    case 'S3': {
      const workspaces = Math.min(shape.workspaces, Math.max(1, Math.round(options.subscribers / 100)));
      const members = shape.users / shape.workspaces;
      const shown = Array.from({ length: workspaces }, (_, index) => index + 1);
      const runs = Array.from({ length: shape.deployments / 2 }, (_, k) => run(shape, k + 1));
      return {
        subscribers: shown.flatMap((workspace) =>
          Array.from({ length: members }, (_, index) => ({
            authorization: contender.authorization(workspace + index * shape.workspaces),
            subscriptions: dashboard.map((query) => ({
              query,
              variables: { id: globalId('Workspace', rowId('workspace', workspace)) },
            })),
          })),
        ),
        async publish() {
          for (const workspace of shown) {
            const of = runs.find((one) => one.workspace === workspace);
            await publisher.publish(rowId('workspace', workspace), [of?.id ?? '']);
          }
        },
        messages: workspaces * members * dashboard.length,
        times: 10,
      };
    }
    default:
      return workload satisfies never;
  }
}

/** A message without what no two of them have in common. */
const comparable = (message: string): string =>
  JSON.stringify(
    normalised((JSON.parse(message) as { payload: unknown }).payload),
    (key, value: unknown) => (['seq', 'at', 'ts'].includes(key) ? key : value),
    1,
  );

/** @throws {AnswersDiffer} */
function checkSamples(seen: Map<string, string>, contender: Contender, { samples }: Report): void {
  for (const [query, message] of samples) {
    const text = comparable(message);
    const before = seen.get(query);
    if (text.includes('"errors"')) throw new AnswersDiffer(`${contender.name} sends ${text} for ${query}`);
    if (before !== undefined && before !== text)
      throw new AnswersDiffer(`${contender.name} sends\n${text}\ninstead of\n${before}\nfor ${query}`);
    seen.set(query, text);
  }
}

interface Turn {
  readonly bench: Bench;
  readonly contender: Contender;
  readonly running: Running;
  readonly clients: Subscribers;
  readonly publisher: Publisher;
  readonly seen: Map<string, string>;
}

/** Messages that may be under way at once: more would hold up heartbeats, and a socket that misses one is closed. */
const mostUnderWay = 20_000;

interface Burst {
  readonly perSecond: number;
  /** Of the server's processes, for a message. */
  readonly cpuUs: number;
  readonly latencies: readonly number[];
}

/** Publishes as often as said, in parts whose last message is waited for, and tells what that took. */
async function burst(turn: Turn, setting: Setting, times: number): Promise<Burst> {
  const { clients, running, contender } = turn;
  const most = Math.max(1, Math.floor(mostUnderWay / setting.messages));
  const latencies: number[][] = [];
  let cpuUs = 0;
  let seconds = 0;
  for (let left = times; left > 0; left -= most) {
    const wanted = setting.messages * Math.min(most, left);
    await clients.reset();
    const before = running.cpu();
    for (let i = 0; i < Math.min(most, left); i++) await setting.publish();
    await clients.arrived(wanted);
    const report = await clients.report();
    if (report.timed !== wanted || report.open !== setting.subscribers.length || report.problems.length > 0)
      throw new Error(`${report.timed} messages for ${wanted}, ${report.open} sockets; ${report.problems.join('; ')}`);
    checkSamples(turn.seen, contender, report);
    cpuUs += spent(before, running.cpu());
    seconds += Number(BigInt(report.last) - BigInt(report.first)) / 1e9;
    latencies.push([...report.latencies]);
  }
  const messages = setting.messages * times;
  return { perSecond: messages / seconds, cpuUs: cpuUs / messages, latencies: latencies.flat() };
}

const percentiles = (all: readonly number[]): { p50Ms: number; p99Ms: number } => {
  const sorted = all.toSorted((a, b) => a - b);
  return { p50Ms: quantile(sorted, 0.5), p99Ms: quantile(sorted, 0.99) };
};

/** Memory that a process holds, garbage aside, kB. */
async function held({ running, bench }: Pick<Turn, 'running' | 'bench'>): Promise<number> {
  running.signal('SIGUSR2'); // see probe.mjs
  await delay(bench.options.quick ? 100 : 1500);
  return running.pss();
}

/** Waits until nothing comes any more. */
async function quiet(clients: Subscribers): Promise<void> {
  for (let before = -1, count = 0; count !== before; count = await clients.count()) {
    before = count;
    await delay(500);
  }
}

/** A subscription is acknowledged by nothing but its first message: publishes until one reaches all. */
async function settled({ clients, contender }: Turn, setting: Setting): Promise<void> {
  for (let tries = 0; tries < 30; tries++) {
    await clients.reset();
    await setting.publish();
    for (let waited = 0; waited < 20; waited++) {
      if ((await clients.count()) >= setting.messages) return quiet(clients);
      await delay(100);
    }
  }
  const { timed, problems } = await clients.report();
  throw new Error(`${contender.name}: ${timed} of ${setting.messages} subscribers hear. ${problems.join('; ')}`);
}

/** Opens all sockets. @returns what one takes, kB; the first ones, for which code is loaded, not counted */
async function openAll(turn: Turn, subscribers: readonly Subscriber[]): Promise<number> {
  const first = Math.min(20, subscribers.length >> 1);
  const { running, clients } = turn;
  await clients.open(running.url, subscribers.slice(0, first));
  const before = await held(turn);
  await clients.open(running.url, subscribers.slice(first));
  return ((await held(turn)) - before) / (subscribers.length - first);
}

/** A load for a profile. */
export async function underLoad(bench: Bench, contender: Contender, running: Running, workload: LiveWorkload) {
  const publisher = new Publisher(bench.databaseUrl);
  const clients = new Subscribers();
  const turn = { bench, contender, running, clients, publisher, seen: new Map<string, string>() };
  await revive(turn);
  const setting = await settingOf(workload, turn);
  await clients.open(running.url, setting.subscribers);
  await settled(turn, setting);
  return {
    run: () => burst(turn, setting, setting.times),
    async end() {
      await clients.close();
      await publisher.close();
    },
  };
}

/** Runs that are followed must not be over. */
async function revive({ bench: { options, shape }, publisher }: Pick<Turn, 'bench' | 'publisher'>): Promise<void> {
  const count = Math.min(Math.max(options.subscribers, shape.workspaces * 2), shape.deployments / 2);
  await publisher.revive(Array.from({ length: count }, (_, k) => run(shape, k + 1).id));
}

/** S1, S2, S3: as many as it can; with L1, then half of that. */
async function deliveries(
  turn: Turn,
  workload: LiveWorkload,
  alsoLatency: boolean,
): Promise<Pick<Sample, 'workload' | 'values'>[]> {
  const { running } = turn;
  const setting = await settingOf(workload, turn);
  const kbPerSocket = await openAll(turn, setting.subscribers);
  await settled(turn, setting);
  await burst(turn, setting, warming);
  const { perSecond, cpuUs } = await burst(turn, setting, setting.times);
  const samples: Pick<Sample, 'workload' | 'values'>[] = [
    { workload, values: { perSecond, cpuUs, pssMb: running.pss() / 1024, kbPerSocket } },
  ];
  if (alsoLatency) {
    const pauseMs = (2 * 1000 * setting.messages) / perSecond;
    const paced: Setting = {
      ...setting,
      async publish() {
        const next = delay(pauseMs);
        await setting.publish();
        await next;
      },
    };
    const half = await burst(turn, paced, setting.times);
    const values = { perSecond: half.perSecond, cpuUs: half.cpuUs, ...percentiles(half.latencies) };
    samples.push({ workload: 'L1', values });
  }
  return samples;
}

/** Ten thousand events of the past, to each of some who come late. */
async function replay({ bench, contender, running, clients, publisher }: Turn): Promise<Sample['values']> {
  const workspaceId = rowId('workspace', 1);
  const head = await publisher.head(workspaceId);
  const many = Math.min(10_000, Number(head.seq));
  const after = cursorOf(workspaceId, head.epoch, head.seq - BigInt(many));
  const count = Math.max(1, Math.round(bench.options.subscribers / 20));
  const subscriber: Subscriber = {
    authorization: contender.authorization(1),
    subscriptions: [{ query: late, variables: { id: globalId('Workspace', workspaceId), after } }],
  };
  const before = running.cpu();
  const begun = performance.now();
  await clients.open(
    running.url,
    Array.from({ length: count }, () => subscriber),
  );
  await clients.arrived(many * count, 'all');
  const seconds = (performance.now() - begun) / 1000;
  const used = spent(before, running.cpu());
  return { perSecond: (many * count) / seconds, cpuUs: used / (many * count), pssMb: running.pss() / 1024 };
}

/** Longer than the heartbeats of everybody. */
const idleMs = 15_000;

async function idleSockets(turn: Turn): Promise<Sample['values']> {
  const { running } = turn;
  const setting = await settingOf('K1', turn);
  const kbPerSocket = await openAll(turn, setting.subscribers);
  await settled(turn, setting);
  const before = running.cpu();
  await delay(idleMs);
  const perIdle = spent(before, running.cpu()) / setting.subscribers.length / (idleMs / 1000);
  const { latencies } = await burst(turn, setting, 1);
  return { kbPerSocket, cpuUs: perIdle, ...percentiles(latencies), pssMb: running.pss() / 1024 };
}

/** Each contender in turn, round by round, started afresh each time. */
export async function measureLive(bench: Bench, workloads: readonly LiveWorkload[]): Promise<Sample[]> {
  const { options, shape, tell } = bench;
  const publisher = new Publisher(bench.databaseUrl);
  const seen = new Map<string, string>();
  const samples: Sample[] = [];
  const chosen = workloads.filter((one) => one !== 'L1' || !workloads.includes('S1'));
  try {
    await revive({ bench, publisher });
    for (let round = 1; round <= options.rounds; round++) {
      for (const workload of chosen) {
        const able = bench.contenders.filter(({ live }) => live.includes(workload));
        const turn = (round - 1) % Math.max(1, able.length);
        for (const contender of [...able.slice(turn), ...able.slice(0, turn)]) {
          const running = await bench.start(contender);
          const clients = new Subscribers();
          const all = { bench, contender, running, clients, publisher, seen };
          try {
            const made =
              workload === 'R1'
                ? [{ workload, values: await replay(all) }]
                : workload === 'K1'
                  ? [{ workload, values: await idleSockets(all) }]
                  : await deliveries(
                      all,
                      workload,
                      workloads.includes('L1') && (workload === 'S1' || workload === 'L1'),
                    );
            for (const sample of made)
              samples.push({ ...sample, contender: contender.name, scale: shape.scale, round });
          } catch (error) {
            if (error instanceof AnswersDiffer) throw error;
            throw new Error(`${contender.name} fails in ${workload}`, { cause: error });
          } finally {
            await clients.close();
            await running.stop();
          }
        }
        tell(`round ${round}: ${workload}`);
      }
    }
    return samples;
  } finally {
    await publisher.close();
  }
}
