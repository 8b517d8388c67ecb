import { setTimeout as delay } from 'node:timers/promises';
import type { Contender, Running } from '../contenders/index.ts';
import type { Shape } from '../data/shape.ts';
import { cpu, spent, tree } from '../measure.ts';
import type { Options } from '../options.ts';
import type { Sample } from '../report/results.ts';

/** What every workload has. */
export interface Bench {
  readonly options: Options;
  readonly shape: Shape;
  readonly contenders: readonly Contender[];
  readonly databaseUrl: string;
  /** Of the database's first process; null: it is somewhere else. */
  readonly databasePid: number | null;
  readonly tell: (what: string) => void;
  start(contender: Contender): Promise<Running>;
}

/** Contenders give different answers, or wrong ones. */
export class AnswersDiffer extends Error {}

/** Each goes first, and before each of the others, as often as the others do. @param round from 1 */
export function inTurn<T>(all: readonly T[], round: number): readonly T[] {
  const turn = ((round - 1) >> 1) % Math.max(1, all.length);
  const turned = [...all.slice(turn), ...all.slice(0, turn)];
  return round % 2 === 1 ? turned : turned.toReversed();
}

/** Time that the processors spent, microseconds. */
interface Spent {
  readonly server: number;
  readonly database: number | null;
  /** What went by. */
  readonly wall: number;
}

/** Begins to measure. @returns what was spent since */
export function meter({ databasePid }: Bench, running: Running): () => Spent {
  const database = () => (databasePid === null ? null : cpu(tree(databasePid)));
  const [server, others, begun] = [running.cpu(), database(), performance.now()];
  return () => {
    const after = database();
    return {
      server: spent(server, running.cpu()),
      database: others && after && spent(others, after),
      wall: (performance.now() - begun) * 1000,
    };
  };
}

/**
 * What something cost each time.
 * @param load time of whatever asked, on the core that it shares with the database; null: it was not measured
 */
export function costs({ server, database, wall }: Spent, times: number, load: number | null): Sample['values'] {
  return {
    cpuUs: server / times,
    ...(database === null ? {} : { databaseUs: database / times }),
    serverBusy: (100 * server) / wall,
    ...(database === null || load === null ? {} : { othersBusy: (100 * (database + load)) / wall }),
  };
}

/** Waits until a server has done what nobody waits for any more, at most five seconds: it would be in the next one's way. */
export async function idle(running: Running): Promise<void> {
  for (let tries = 0; tries < 50; tries++) {
    const before = running.cpu();
    await delay(100);
    if (spent(before, running.cpu()) < 10_000) return;
  }
}
