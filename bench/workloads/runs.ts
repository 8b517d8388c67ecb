import type { Contender, Running } from '../contenders/index.ts';
import { post } from '../load/post.ts';
import { counting } from '../measure.ts';
import type { Sample } from '../report/results.ts';
import { costs, inTurn, meter, type Bench } from './bench.ts';

export const runWorkloads = {
  J1: 'runs with three steps that do nothing, from being asked for until over',
  E1: 'events, each committed by itself',
} as const;
export type RunWorkload = keyof typeof runWorkloads;
export const isRunWorkload = (name: string): name is RunWorkload => name in runWorkloads;

export const startRunner = (bench: Bench, contender: Contender): Promise<Running> =>
  bench.start({ ...contender, env: { ...contender.env, WORKSPACES: String(bench.shape.workspaces) } });

/** Events are made as many times as often as runs: they are that much quicker. */
const eventsOfRun = 5;

const countOf = (bench: Bench, workload: RunWorkload): number =>
  bench.options.runs * (workload === 'E1' ? eventsOfRun : 1);

const make = ({ url }: Running, workload: RunWorkload, count: number): Promise<string> =>
  post(url, JSON.stringify({ [workload === 'E1' ? 'events' : 'runs']: count }), null);

/** A load for a profile. */
export const runsUnderLoad = (bench: Bench, running: Running, workload: RunWorkload) => ({
  run: () => make(running, workload, countOf(bench, workload)),
  end: async () => undefined,
});

/** Each contender in turn, round by round, started afresh each time. */
export async function measureRuns(
  bench: Bench,
  runners: readonly Contender[],
  workloads: readonly RunWorkload[],
): Promise<Sample[]> {
  const { options, shape, tell } = bench;
  const samples: Sample[] = [];
  for (let round = 1; round <= options.rounds; round++) {
    for (const contender of inTurn(runners, round)) {
      const running = await startRunner(bench, contender);
      try {
        for (const workload of workloads) {
          // An event is an event, whoever executes runs.
          if (workload === 'E1' && contender.name === 'pg-boss') continue;
          const count = countOf(bench, workload);
          await make(running, workload, Math.max(10, count >> 2)); // warm
          const told = meter(bench, running);
          const begun = performance.now();
          await make(running, workload, count);
          const perSecond = (count * 1000) / (performance.now() - begun);
          const values = { perSecond, ...costs(told(), count, 0), pssMb: running.pss() / 1024 };
          // It tells nothing new in the next rounds.
          const some = Math.max(10, count >> 4);
          const counted =
            round > 1
              ? null
              : await counting(bench.databaseUrl, (counts) => counts(some, () => make(running, workload, some)));
          samples.push({
            workload,
            contender: contender.name,
            scale: shape.scale,
            round,
            values: { ...values, ...counted },
          });
        }
      } finally {
        await running.stop();
      }
    }
    tell(`round ${round}: ${workloads.join(', ')}`);
  }
  return samples;
}
