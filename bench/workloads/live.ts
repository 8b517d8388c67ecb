import { setTimeout as delay } from 'node:timers/promises';
import type { Contender, Running } from '../contenders/index.ts';
import { Subscribers } from '../load/subscribers.ts';
import type { Report, Subscriber } from '../load/subscriber.ts';
import { cpu, spent } from '../measure.ts';
import type { Sample } from '../report/results.ts';
import { AnswersDiffer, costs, idle, inTurn, meter, type Bench } from './bench.ts';
import { normalised } from './documents.ts';
import { Publisher } from './publisher.ts';
import { followed, replayOf, settingOf, type LiveWorkload, type Setting } from './streams.ts';

/** A contender that is measured. */
interface Turn {
  readonly bench: Bench;
  readonly contender: Contender;
  readonly running: Running;
  readonly clients: Subscribers;
  readonly publisher: Publisher;
  /** It was started for this turn. */
  readonly fresh: boolean;
  /** A message of each document. */
  readonly seen: Map<string, string>;
}

/** A message without what no two of them have in common. */
const comparable = (message: string): string =>
  JSON.stringify(
    normalised((JSON.parse(message) as { payload: unknown }).payload),
    (key, value: unknown) => (['seq', 'at', 'ts'].includes(key) ? key : value),
    1,
  );

/** @throws {AnswersDiffer} */
function checkSamples({ seen, contender }: Turn, { samples }: Report): void {
  for (const [query, message] of samples) {
    const text = comparable(message);
    const before = seen.get(query);
    if (text.includes('"errors"')) throw new AnswersDiffer(`${contender.name} sends ${text} for ${query}`);
    if (before !== undefined && before !== text)
      throw new AnswersDiffer(`${contender.name} sends\n${text}\ninstead of\n${before}\nfor ${query}`);
    seen.set(query, text);
  }
}

/** All of them are there, and nothing was closed or refused. */
async function reported(turn: Turn, kind: 'timed' | 'all', wanted: number, sockets: number): Promise<Report> {
  const report = await turn.clients.report();
  if (report[kind] !== wanted || report.open !== sockets || report.problems.length > 0)
    throw new Error(`${report[kind]} messages for ${wanted}, ${report.open} sockets; ${report.problems.join('; ')}`);
  checkSamples(turn, report);
  return report;
}

/** The same of the clients and of the bench itself, which writes the events. */
const loadCpu = ({ clients }: Turn) => cpu([process.pid, ...clients.pids]);

/** Messages that may be under way at once: more would hold up heartbeats, and a socket that misses one is closed. */
const mostUnderWay = 20_000;

interface Burst {
  readonly values: Sample['values'];
  readonly latencies: readonly number[];
}

/** Publishes for so long, each time as soon as it can, or at this distance, milliseconds. */
async function burst(turn: Turn, setting: Setting, seconds: number, distance = 0): Promise<Burst> {
  const { bench, clients, running } = turn;
  const most = Math.max(mostUnderWay, setting.messages);
  await clients.reset();
  const [told, load] = [meter(bench, running), loadCpu(turn)];
  const begun = performance.now();
  let times = 0;
  for (let arrived = 0; times === 0 || performance.now() < begun + 1000 * seconds;) {
    while (times * setting.messages - arrived >= most) {
      await delay(1);
      arrived = await clients.count();
    }
    await delay(Math.max(0, begun + times * distance - performance.now()));
    await setting.publish();
    times++;
  }
  const messages = times * setting.messages;
  await clients.arrived(messages);
  const values = costs(told(), messages, spent(load, loadCpu(turn)));
  const { first, last, latencies } = await reported(turn, 'timed', messages, setting.subscribers.length);
  return { values: { perSecond: (messages * 1e9) / Number(BigInt(last) - BigInt(first)), ...values }, latencies };
}

const percentiles = (all: readonly number[]): { p50Ms: number; p99Ms: number } => {
  const sorted = Float64Array.from(all).toSorted();
  const quantile = (part: number): number => sorted[Math.floor(part * (sorted.length - 1))] ?? Number.NaN;
  return { p50Ms: quantile(0.5), p99Ms: quantile(0.99) };
};

/** Memory that a process holds, garbage aside, kB. */
async function held({ running, bench }: Turn): Promise<number> {
  running.signal('SIGUSR2'); // see probe.mjs
  await delay(bench.options.quick ? 100 : 1000);
  return running.pss();
}

/** Waits until nothing comes any more. */
async function quiet(clients: Subscribers): Promise<void> {
  for (let before = -1, count = 0; count !== before; count = await clients.count()) {
    before = count;
    await delay(300);
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
async function openAll(turn: Turn, subscribers: readonly Subscriber[]): Promise<{ readonly kbPerSocket?: number }> {
  const first = Math.min(20, subscribers.length >> 1);
  const { running, clients } = turn;
  await clients.open(running.url, subscribers.slice(0, first));
  // A process that had as many before tells nothing of it.
  const before = turn.fresh ? await held(turn) : null;
  await clients.open(running.url, subscribers.slice(first));
  return before === null ? {} : { kbPerSocket: ((await held(turn)) - before) / (subscribers.length - first) };
}

type Measured = readonly Pick<Sample, 'workload' | 'values'>[];

/** Seconds of deliveries before they are measured, at least one event. */
const warmSeconds = 0.5;

/** As many as it can; then, for L1, half of that. */
async function deliveries(turn: Turn, workload: 'S1' | 'S2' | 'S3'): Promise<Measured> {
  const { bench, contender, publisher, running } = turn;
  const { options } = bench;
  const setting = await settingOf(workload, bench, contender, publisher);
  const memory = await openAll(turn, setting.subscribers);
  await settled(turn, setting);
  await burst(turn, setting, warmSeconds);
  const { values } = await burst(turn, setting, options.seconds);
  const made = [{ workload, values: { ...values, ...memory, pssMb: running.pss() / 1024 } }];
  if (workload !== 'S1' || !options.workloads.includes('L1')) return made;
  const half = await burst(turn, setting, options.seconds, (2 * 1000 * setting.messages) / (values.perSecond ?? 1));
  return [...made, { workload: 'L1', values: { ...half.values, ...percentiles(half.latencies) } }];
}

async function replay(turn: Turn): Promise<Measured> {
  const { bench, contender, running, clients, publisher } = turn;
  const { subscribers, messages } = await replayOf(bench, contender, publisher);
  const [told, load] = [meter(bench, running), spent(new Map(), loadCpu(turn))];
  const begun = performance.now();
  await clients.open(running.url, subscribers);
  await clients.arrived(messages, 'all');
  const perSecond = (messages * 1000) / (performance.now() - begun);
  const values = costs(told(), messages, spent(new Map(), loadCpu(turn)) - load);
  await reported(turn, 'all', messages, subscribers.length);
  return [{ workload: 'R1', values: { perSecond, ...values, pssMb: running.pss() / 1024 } }];
}

/** Longer than the heartbeats of everybody. */
const idleMs = 15_000;

/** Memory is all that the process has more than before the first of them, once all have had an event and a heartbeat. */
async function idleSockets(turn: Turn): Promise<Measured> {
  const { bench, contender, running, publisher, clients } = turn;
  const setting = await settingOf('K1', bench, contender, publisher);
  const { subscribers } = setting;
  const some = Math.ceil(subscribers.length / 10);
  const none = await held(turn);
  await clients.open(running.url, subscribers.slice(0, some));
  await settled(turn, { ...setting, messages: some });
  const tenth = await held(turn);
  await clients.open(running.url, subscribers.slice(some));
  await settled(turn, setting);
  const told = meter(bench, running);
  await delay(idleMs);
  const living = costs(told(), (subscribers.length * idleMs) / 1000, null);
  const all = await held(turn);
  const memory = {
    kbPerSocket: (all - none) / subscribers.length,
    kbOfTenth: (tenth - none) / some,
    kbOfRest: (all - tenth) / (subscribers.length - some),
  };
  const { latencies } = await burst(turn, setting, 0);
  return [{ workload: 'K1', values: { ...living, ...memory, ...percentiles(latencies), pssMb: running.pss() / 1024 } }];
}

/** A load for a profile. */
export async function underLoad(bench: Bench, contender: Contender, running: Running, workload: LiveWorkload) {
  const publisher = new Publisher(bench.databaseUrl);
  const clients = new Subscribers();
  const turn = { bench, contender, running, clients, publisher, fresh: false, seen: new Map<string, string>() };
  await publisher.revive(followed(bench));
  const setting = await settingOf(workload === 'R1' ? 'S1' : workload, bench, contender, publisher);
  await clients.open(running.url, setting.subscribers);
  await settled(turn, setting);
  return {
    run: () => burst(turn, setting, bench.options.seconds),
    async end() {
      await clients.close();
      await publisher.close();
    },
  };
}

/** Loads each contender in turn, round by round. K1 starts it afresh each time. L1 comes with S1. */
export async function measureLive(bench: Bench, workloads: readonly LiveWorkload[]): Promise<Sample[]> {
  const { options, shape, tell } = bench;
  const publisher = new Publisher(bench.databaseUrl);
  const seen = new Map<string, string>();
  const samples: Sample[] = [];
  const kept = new Map<string, Running>();
  const stop = async ({ name }: Contender): Promise<void> => {
    await kept.get(name)?.stop();
    kept.delete(name);
  };
  const measured = async (contender: Contender, workload: LiveWorkload): Promise<Measured> => {
    const fresh = !kept.has(contender.name);
    const running = kept.get(contender.name) ?? (await bench.start(contender));
    kept.set(contender.name, running);
    const clients = new Subscribers();
    const turn = { bench, contender, running, clients, publisher, fresh, seen };
    try {
      if (workload === 'R1') return await replay(turn);
      return await (workload === 'K1' ? idleSockets(turn) : deliveries(turn, workload === 'L1' ? 'S1' : workload));
    } catch (error) {
      if (error instanceof AnswersDiffer) throw error;
      throw new Error(`${contender.name} fails in ${workload}\n${running.lastWords()}`, { cause: error });
    } finally {
      await clients.close();
      await idle(running);
    }
  };
  try {
    await publisher.revive(followed(bench));
    for (const workload of new Set(workloads.map((one) => (one === 'L1' ? 'S1' : one)))) {
      const able = bench.contenders.filter(({ live }) => live.includes(workload));
      for (let round = 1; round <= options.rounds; round++) {
        for (const contender of inTurn(able, round)) {
          const made = await measured(contender, workload);
          for (const one of made) samples.push({ ...one, contender: contender.name, scale: shape.scale, round });
          if (workload === 'K1') await stop(contender);
        }
        tell(`round ${round}: ${workload}`);
      }
      await Promise.all(able.map(stop));
    }
    return samples;
  } finally {
    await Promise.all([...kept.values()].map((running) => running.stop()));
    await publisher.close();
  }
}
