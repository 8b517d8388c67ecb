import { setTimeout as delay } from 'node:timers/promises';
import { comparable, type Operation } from './documents.ts';
import { cursorsOf, operations, requestOf, type Request, type RequestWorkload } from './requests.ts';
import type { Contender, Running } from '../contenders/index.ts';
import { load } from '../load/http.ts';
import { post } from '../load/post.ts';
import { cores, counting, cpu, spent, tree } from '../measure.ts';
import type { Sample } from '../report/results.ts';
import type { Bench } from './bench.ts';

/** Different requests of one load. */
const many = 400;
/** Operations whose answers are compared. */
const compared = 25;

/** Answers differ. */
export class AnswersDiffer extends Error {}

interface Entry {
  readonly contender: Contender;
  readonly running: Running;
  readonly cursors: ReadonlyMap<string, string>;
}

const send = ({ contender, running, cursors }: Entry, operation: Operation): Promise<string> => {
  const { body, authorization } = requestOf(contender, operation, cursors);
  return post(running.url, body, authorization);
};

/** @throws {AnswersDiffer} */
async function checkAnswers(bench: Bench, entries: readonly Entry[], workload: RequestWorkload): Promise<void> {
  const [first, ...others] = entries;
  if (!first) return;
  for (const operation of operations(workload, bench.shape, bench.options.quick ? 8 : compared)) {
    const expected = comparable(operation, await send(first, operation));
    if (/"errors":|"node": null|"workspace": null/.test(expected)) {
      throw new AnswersDiffer(`${first.contender.name} answers ${JSON.stringify(operation)} with ${expected}`);
    }
    for (const other of others) {
      const answer = comparable(operation, await send(other, operation));
      if (answer === expected) continue;
      const [a, b] = [expected.split('\n'), answer.split('\n')];
      const at = a.findIndex((line, index) => line !== b[index]);
      throw new AnswersDiffer(
        `${workload}: ${other.contender.name} and ${first.contender.name} differ for ${JSON.stringify(operation)}:\n` +
          `  ${b.slice(Math.max(0, at - 2), at + 5).join('\n  ')}\ninstead of\n  ${a.slice(Math.max(0, at - 2), at + 5).join('\n  ')}`,
      );
    }
  }
}

/** A load for a profile. */
export async function loadOf(bench: Bench, contender: Contender, running: Running, workload: RequestWorkload) {
  const { shape, options } = bench;
  const cursors = await cursorsOf(contender, running, shape);
  const requests = operations(workload, shape, workload === 'M1' ? shape.applications : many).map((one) =>
    requestOf(contender, one, cursors),
  );
  const { seconds, connections } = options;
  return {
    run: () => load(running.url, requests, { seconds, connections, core: cores.others, seed: 1 }),
    end: async () => undefined,
  };
}

/** Waits until a server has done what nobody waits for any more, at most five seconds: it would be in the next one's way. */
async function idle(running: Running): Promise<void> {
  for (let tries = 0; tries < 50; tries++) {
    const before = running.cpu();
    await delay(100);
    if (spent(before, running.cpu()) < 10_000) return;
  }
}

/** Loads each contender in turn, round by round. */
export async function measureRequests(bench: Bench, workloads: readonly RequestWorkload[]): Promise<Sample[]> {
  const { options, shape, tell } = bench;
  const entries: Entry[] = [];
  try {
    const begin = async (contender: Contender): Promise<void> => {
      tell(`starting ${contender.name}`);
      const running = await bench.start(contender);
      const cursors = new Map<string, string>();
      entries.push({ contender, running, cursors });
      for (const [row, cursor] of await cursorsOf(contender, running, shape)) cursors.set(row, cursor);
    };
    const serving = bench.contenders.filter(({ http }) => http);
    if (options.quick) {
      const begun = await Promise.allSettled(serving.map(begin));
      for (const one of begun) if (one.status === 'rejected') throw one.reason;
    } else for (const contender of serving) await begin(contender);
    const requests = new Map<string, Request[]>();
    const counts = new Map<string, number | null>();
    const key = (contender: Contender, workload: string): string => `${contender.name} ${workload}`;
    for (const workload of workloads) {
      await checkAnswers(bench, entries, workload);
      tell(`${workload}: all ${entries.length} give the same answers`);
      for (const entry of entries) {
        const count = workload === 'M1' ? shape.applications : many;
        const all = operations(workload, shape, count).map((one) => requestOf(entry.contender, one, entry.cursors));
        requests.set(key(entry.contender, workload), all);
      }
    }
    await counting(bench.databaseUrl, async (count) => {
      for (const workload of workloads) {
        const some = operations(workload, shape, options.quick ? 4 : 10);
        for (const entry of entries) {
          const all = async () => {
            for (const operation of some) await send(entry, operation);
          };
          await all(); // what is prepared once does not count
          const counted = await count(all);
          counts.set(key(entry.contender, workload), counted === null ? null : counted / some.length);
        }
      }
    });
    const one = (entry: Entry, workload: RequestWorkload, seconds: number, seed: number) =>
      load(entry.running.url, requests.get(key(entry.contender, workload)) ?? [], {
        seconds,
        connections: options.connections,
        core: cores.others,
        seed,
      });
    const measured = async (workload: RequestWorkload, round: number): Promise<Sample[]> => {
      const samples: Sample[] = [];
      // Each goes first as often as the others.
      const turn = (round - 1) % entries.length;
      for (const entry of [...entries.slice(turn), ...entries.slice(0, turn)]) {
        const database = () => (bench.databasePid === null ? new Map<number, number>() : cpu(tree(bench.databasePid)));
        const [server, others] = [entry.running.cpu(), database()];
        const result = await one(entry, workload, options.seconds, round);
        const used = spent(server, entry.running.cpu());
        const byDatabase = spent(others, database());
        const count = counts.get(key(entry.contender, workload));
        if (result.requests === 0)
          throw new Error(`${entry.contender.name} answers no ${workload} in ${options.seconds} s`);
        // When the load ends, each connection has a request under way, half done on the average.
        const served = result.requests + options.connections / 2;
        await idle(entry.running);
        samples.push({
          workload,
          contender: entry.contender.name,
          scale: shape.scale,
          round,
          values: {
            perSecond: result.perSecond,
            cpuUs: used / served,
            ...(bench.databasePid === null ? {} : { databaseUs: byDatabase / served }),
            ...(count == null ? {} : { statements: count }),
            p50Ms: result.p50,
            p99Ms: result.p99,
            pssMb: entry.running.pss() / 1024,
            errors: result.errors,
          },
        });
        if (result.errors > 0)
          throw new Error(`${entry.contender.name} failed ${result.errors} requests of ${workload}`);
      }
      tell(`round ${round}: ${workload}`);
      return samples;
    };

    const samples: Sample[] = [];
    // What writes comes last, so that the others read what was made for them.
    for (const group of [workloads.filter((one) => one !== 'M1'), workloads.filter((one) => one === 'M1')]) {
      if (options.warmSeconds > 0)
        for (const entry of entries) for (const workload of group) await one(entry, workload, options.warmSeconds, 1);
      for (let round = 1; round <= options.rounds; round++)
        for (const workload of group) samples.push(...(await measured(workload, round)));
    }
    // The same answers after all of that.
    for (const workload of workloads) await checkAnswers(bench, entries, workload);
    return samples;
  } finally {
    await Promise.all(entries.map(({ running }) => running.stop()));
  }
}
