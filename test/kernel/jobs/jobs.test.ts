import '../../support/probe.ts';
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { system } from '../../../src/kernel/auth/actor.ts';
import { globalId } from '../../../src/kernel/graphql/global-id.ts';
import { defineJob, type JobContext } from '../../../src/kernel/jobs/define.ts';
import { member } from '../../support/actors.ts';
import { data, send } from '../../support/client.ts';
import { until } from '../../support/embedded.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';
import { livenessMs, owner } from '../runs/harness.ts';

const Payload = z.object({ workspaceId: z.uuid(), key: z.string() });

/** What the handler does with the job of a key, try by try; the default is to succeed. */
const behaviours = new Map<string, (context: JobContext) => Promise<void>>();
const tries = new Map<string, { attempt: number; at: number }[]>();

const flaky = defineJob({
  name: 'test.flaky',
  payload: Payload,
  attempts: 3,
  retryDelayS: 1,
  timeoutS: 30,
  workspaceOf: ({ workspaceId }) => workspaceId,
  async handle({ key }, context) {
    const seen = tries.get(key) ?? [];
    tries.set(key, [...seen, { attempt: context.attempt, at: performance.now() }]);
    await behaviours.get(key)?.(context);
  },
});

let ticks = 0;
defineJob({
  name: 'test.tick',
  payload: z.object({}),
  attempts: 1,
  retryDelayS: 1,
  timeoutS: 30,
  cron: '* * * * *',
  handle: async () => void ticks++,
});

let server: TestServer;
let home: Awaited<ReturnType<typeof owner>>;
beforeAll(async () => {
  server = await startTestServer({ SWITCHYARD_PROCESS_DRIVER: 'false' });
  home = await owner(server);
});
afterAll(() => server.stop());

const app = () => server.running.app;
const enqueue = (key: string) =>
  app().transact(system, (tx) => app().jobs.enqueue(tx, flaky, { workspaceId: home.workspaceId, key }));
const triesOf = (key: string) => tries.get(key) ?? [];

test('a job is queued with the transaction, or not at all', async () => {
  const [kept, lost] = [randomUUID(), randomUUID()];
  await expect(
    app().transact(system, async (tx) => {
      await app().jobs.enqueue(tx, flaky, { workspaceId: home.workspaceId, key: lost });
      throw new Error('rolled back');
    }),
  ).rejects.toThrow('rolled back');
  const { rows } = await app().database.pool.query(`select 1 from pgboss.job where data->'payload'->>'key' = $1`, [
    lost,
  ]);
  expect(rows).toHaveLength(0);
  await enqueue(kept);
  await until('it was handled', async () => triesOf(kept).length === 1, livenessMs);
  expect(triesOf(lost)).toHaveLength(0);
});

test('the wake-up of a run is what the job engine would write, and there is one at most', async () => {
  // Of a host that is not there: nobody takes them.
  const [hostId, one, other] = [randomUUID(), randomUUID(), randomUUID()];
  const wake = () => app().transact(system, (tx) => app().jobs.wakeRun(tx, { id: one, hostId }));
  await wake();
  await wake();
  await app().jobs.wakeRuns([
    { id: one, hostId },
    { id: other, hostId },
  ]);
  const { rows } = await app().database.pool.query<{ run: string; key: string; rest: object }>(
    `select data->>'runId' run, singleton_key "key", to_jsonb(j) - array['id', 'data', 'singleton_key', 'start_after', 'created_on', 'keep_until']
       || jsonb_build_object('kept', keep_until - start_after, 'due', start_after <= now()) rest
     from pgboss.job j where name = 'run.' || $1::text order by created_on`,
    [hostId],
  );
  expect(rows.map(({ run, key }) => [run, key])).toEqual([
    [one, one],
    [other, other],
  ]);
  expect(rows[0]?.rest).toEqual(rows[1]?.rest);
});

test('a malformed payload is refused before it is queued', async () => {
  await expect(
    app().transact(system, (tx) => app().jobs.enqueue(tx, flaky, { workspaceId: 'no id', key: 'x' })),
  ).rejects.toThrow(/uuid/i);
});

// What follows is waiting: side by side.
test.concurrent('a job that fails is tried again, later each time', async () => {
  const key = randomUUID();
  behaviours.set(key, async ({ attempt }) => {
    if (attempt < 3) throw new Error(`try ${attempt}`);
  });
  await enqueue(key);
  await until('the third try', async () => triesOf(key).length === 3, livenessMs);
  const [first, second, third] = triesOf(key);
  expect(triesOf(key).map(({ attempt }) => attempt)).toEqual([1, 2, 3]);
  // At least the delay; the second one has some jitter and at least doubles the least of the first.
  expect((second?.at ?? 0) - (first?.at ?? 0)).toBeGreaterThan(500);
  expect((third?.at ?? 0) - (second?.at ?? 0)).toBeGreaterThan(1000);
});

interface Letters {
  readonly node: {
    readonly deadLetters: {
      readonly totalCount: number;
      readonly nodes: readonly {
        readonly id: string;
        readonly job: string;
        readonly payload: unknown;
        readonly error: string;
        readonly attempts: number;
        readonly replayedAt: string | null;
      }[];
    };
  };
}

const letters = `query ($id: ID!) { node(id: $id) { ... on Workspace {
  deadLetters { totalCount nodes { id job payload error attempts replayedAt } } } } }`;
const replay = `mutation ($id: ID!) { replayDeadLetter(input: { id: $id }) {
  __typename ... on ReplayDeadLetterSuccess { deadLetter { replayedAt } } ... on Error { code message } } }`;

test.concurrent(
  'a job that fails to the last is a dead letter: administrators see it and replay it, once',
  async () => {
    const key = randomUUID();
    let broken = true;
    behaviours.set(key, async () => {
      if (broken) throw new Error('the disk is full');
    });
    await enqueue(key);
    await until('the letter', async () => (await app().db.deadLetter.count()) === 1, livenessMs);
    expect(triesOf(key)).toHaveLength(3);
    const id = globalId('Workspace', home.workspaceId);
    const admin = await member(server.url, home, id, 'ADMIN');
    const plain = await member(server.url, home, id, 'MEMBER');
    const stranger = await owner(server);
    const { node } = await data<Letters>(server.url, letters, { id }, admin);
    expect(node.deadLetters).toMatchObject({
      totalCount: 1,
      nodes: [
        {
          job: 'test.flaky',
          payload: { workspaceId: home.workspaceId, key },
          error: 'the disk is full',
          attempts: 3,
          replayedAt: null,
        },
      ],
    });
    expect((await data<Letters>(server.url, letters, { id }, plain)).node.deadLetters).toEqual({
      totalCount: 0,
      nodes: [],
    });
    expect((await data<{ node: null }>(server.url, letters, { id }, stranger)).node).toBeNull();

    const letter = node.deadLetters.nodes[0]?.id ?? '';
    const outcome = async (who: { token: string }) =>
      (await data<{ replayDeadLetter: { __typename: string } }>(server.url, replay, { id: letter }, who))
        .replayDeadLetter.__typename;
    expect(await outcome(plain)).toBe('Forbidden');
    expect(await outcome(stranger)).toBe('NotFound');
    broken = false;
    const both = await Promise.all([outcome(admin), outcome(admin)]);
    expect(both.toSorted()).toEqual(['Conflict', 'ReplayDeadLetterSuccess']);
    await until('it was handled again', async () => triesOf(key).length === 4, livenessMs);
    expect(await outcome(admin)).toBe('Conflict');
    const anonymous = await send<{ replayDeadLetter: { __typename: string } }>(server.url, replay, { id: letter });
    expect(anonymous.data?.replayDeadLetter.__typename).not.toBe('ReplayDeadLetterSuccess');
  },
);

test.concurrent(
  'a job with a cron runs by the clock',
  async () => {
    await until('it ran', async () => ticks > 0, 4 * 75_000);
    expect(ticks).toBeGreaterThan(0);
  },
  320_000,
);
