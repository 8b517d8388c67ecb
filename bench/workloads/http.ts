import { setTimeout as delay } from 'node:timers/promises';
import { comparable, type Operation } from './documents.ts';
import { cursorsOf, operations, requestOf, type Request, type RequestWorkload } from './requests.ts';
import type { Contender, Running } from '../contenders/index.ts';
import { times } from '../contenders/shared/times.ts';
import { load } from '../load/http.ts';
import { post } from '../load/post.ts';
import { cores, counting, type Counted } from '../measure.ts';
import type { Sample } from '../report/results.ts';
import { AnswersDiffer, costs, idle, inTurn, meter, type Bench } from './bench.ts';

/** Operations whose answers are compared. */
const compared = 25;

interface Entry {
  /** Which has the data. */
  readonly bench: Bench;
  readonly contender: Contender;
  readonly running: Running;
  readonly cursors: ReadonlyMap<string, string>;
}

const send = ({ contender, running, cursors }: Entry, operation: Operation): Promise<string> => {
  const { body, authorization } = requestOf(contender, operation, cursors);
  return post(running.url, body, authorization);
};

/** Operations with the answers that all give. */
type Expected = readonly (readonly [Operation, string])[];

/** @throws {AnswersDiffer} */
async function checkAnswer(entry: Entry, operation: Operation, expected: string): Promise<void> {
  const answer = comparable(operation, await send(entry, operation));
  if (answer === expected) return;
  const [a, b] = [expected.split('\n'), answer.split('\n')];
  const at = a.findIndex((line, index) => line !== b[index]);
  const part = (lines: readonly string[]) => lines.slice(Math.max(0, at - 2), at + 5).join('\n  ');
  throw new AnswersDiffer(
    `${entry.contender.name} answers ${JSON.stringify(operation)} with\n  ${part(b)}\ninstead of\n  ${part(a)}`,
  );
}

/** @throws {AnswersDiffer} */
async function checkAnswers(bench: Bench, entries: readonly Entry[], workload: RequestWorkload): Promise<Expected> {
  const [first, ...others] = entries;
  const found: [Operation, string][] = [];
  for (const operation of operations(workload, bench.shape, bench.options.quick ? 8 : compared)) {
    const expected = first ? comparable(operation, await send(first, operation)) : '';
    if (/"errors":|"node": null|"workspace": null/.test(expected))
      throw new AnswersDiffer(`${first?.contender.name} answers ${JSON.stringify(operation)} with ${expected}`);
    for (const other of others) await checkAnswer(other, operation, expected);
    found.push([operation, expected]);
  }
  return found;
}

/** Looks at answers while a load is on, which looks at statuses only. @returns how many it looked at */
async function watched(entry: Entry, expected: Expected, load: Promise<unknown>): Promise<number> {
  const over = load.then(() => true);
  for (let asked = 0; ; asked++) {
    if (await Promise.race([over, delay(25, false)])) return asked;
    const [operation, answer] = expected[asked % expected.length] ?? [];
    if (operation && answer !== undefined) await checkAnswer(entry, operation, answer);
  }
}

/** A load for a profile. */
export async function loadOf(bench: Bench, contender: Contender, running: Running, workload: RequestWorkload) {
  const { shape, options } = bench;
  const cursors = await cursorsOf(contender, running, shape);
  const requests = operations(workload, shape, workload === 'M1' ? shape.applications : options.different).map((one) =>
    requestOf(contender, one, cursors),
  );
  const { seconds, connections } = options;
  return {
    run: () => load(running.url, requests, { seconds, connections, core: cores.others, seed: 1 }),
    end: async () => undefined,
  };
}

/**
 * Everybody who is about to ask says who they are. A load of a second stands for one that lasts, in which a server that remembers
 * people for a minute looks them up once a minute; with other loads in between, it would have forgotten them all.
 */
async function introduced({ contender, running }: Entry, requests: readonly Request[]): Promise<void> {
  const people = [...new Set(requests.map(({ authorization }) => authorization))].filter((one) => one !== null);
  if (contender.dialect !== 'limit')
    await times(people.length, (index) => post(running.url, '{"query":"{ __typename }"}', people[index] ?? null));
}

/** Loads each contender in turn, round by round; those of other scales among them, so that all have the same times. */
export async function measureRequests(
  benches: readonly Bench[],
  workloads: readonly RequestWorkload[],
): Promise<Sample[]> {
  const [first] = benches;
  if (!first) return [];
  const { options, tell } = first;
  const entries: Entry[] = [];
  try {
    const begin = async (bench: Bench, contender: Contender): Promise<void> => {
      tell(`starting ${contender.name}, scale ${bench.shape.scale}`);
      const running = await bench.start(contender);
      entries.push({ bench, contender, running, cursors: await cursorsOf(contender, running, bench.shape) });
    };
    for (const bench of benches) {
      const serving = bench.contenders.filter(({ http }) => http);
      if (options.quick) {
        const begun = await Promise.allSettled(serving.map((one) => begin(bench, one)));
        for (const one of begun) if (one.status === 'rejected') throw one.reason;
      } else for (const contender of serving) await begin(bench, contender);
    }
    const of = (bench: Bench) => entries.filter((entry) => entry.bench === bench);
    const atScale = ({ shape }: Bench, workload: string): string => `${shape.scale} ${workload}`;
    const key = ({ bench, contender }: Entry, workload: string): string => `${contender.name} ${atScale(bench, workload)}`; // prettier-ignore
    const requests = new Map<string, Request[]>();
    const counts = new Map<string, Counted | null>();
    for (const bench of benches) {
      const { shape } = bench;
      for (const workload of workloads) {
        await checkAnswers(bench, of(bench), workload);
        tell(`${workload}, scale ${shape.scale}: all ${of(bench).length} give the same answers`);
        const all = operations(workload, shape, workload === 'M1' ? shape.applications : options.different);
        for (const entry of of(bench))
          requests.set(
            key(entry, workload),
            all.map((one) => requestOf(entry.contender, one, entry.cursors)),
          );
      }
      await counting(bench.databaseUrl, async (count) => {
        for (const workload of workloads) {
          const some = operations(workload, shape, options.quick ? 4 : compared);
          for (const entry of of(bench)) {
            const all = async () => {
              for (const operation of some) await send(entry, operation);
            };
            await all(); // what is prepared once does not count
            counts.set(key(entry, workload), await count(some.length, all));
          }
        }
      });
    }
    const expected = new Map<string, Expected>();
    const one = (entry: Entry, workload: RequestWorkload, seconds: number, seed: number) =>
      load(entry.running.url, requests.get(key(entry, workload)) ?? [], {
        seconds,
        connections: options.connections,
        core: cores.others,
        seed,
      });
    const measured = async (entry: Entry, workload: RequestWorkload, round: number): Promise<Sample> => {
      const { bench, contender, running } = entry;
      await introduced(entry, requests.get(key(entry, workload)) ?? []);
      const told = meter(bench, running);
      const loaded = one(entry, workload, options.seconds, round);
      const answers = expected.get(atScale(bench, workload)) ?? [];
      const [result, looked] = await Promise.all([loaded, watched(entry, answers, loaded)]);
      const used = told();
      if (result.requests === 0) throw new Error(`${contender.name} answers no ${workload} in ${options.seconds} s`);
      if (result.errors > 0) throw new Error(`${contender.name} failed ${result.errors} requests of ${workload}`);
      // When the load ends, each connection has a request under way, half done on the average.
      const served = result.requests + options.connections / 2 + looked;
      await idle(running);
      return {
        workload,
        contender: contender.name,
        scale: bench.shape.scale,
        round,
        values: {
          perSecond: result.perSecond,
          ...costs(used, served, result.cpuUs),
          ...counts.get(key(entry, workload)),
          p50Ms: result.p50,
          p99Ms: result.p99,
          pssMb: running.pss() / 1024,
        },
      };
    };

    const samples: Sample[] = [];
    // What writes comes last, so that the others read what was made for them.
    for (const group of [workloads.filter((name) => name !== 'M1'), workloads.filter((name) => name === 'M1')]) {
      if (options.warmSeconds > 0)
        for (const entry of entries) for (const workload of group) await one(entry, workload, options.warmSeconds, 1);
      for (const bench of benches)
        for (const workload of group)
          expected.set(atScale(bench, workload), await checkAnswers(bench, of(bench), workload));
      for (let round = 1; round <= options.rounds; round++)
        for (const workload of group) {
          for (const entry of inTurn(entries, round)) samples.push(await measured(entry, workload, round));
          tell(`round ${round}: ${workload}`);
        }
    }
    // The same answers after all of that.
    for (const bench of benches) for (const workload of workloads) await checkAnswers(bench, of(bench), workload);
    return samples;
  } finally {
    await Promise.all(entries.map(({ running }) => running.stop()));
  }
}
