import { access, readdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { rowId } from '#kernel/graphql/global-id.ts';
import { newId } from '#kernel/ids.ts';
import { isAlive } from '#kernel/processes/children.ts';
import { Denials } from '#kernel/audit/denials.ts';
import { Artifacts } from '#kernel/storage/artifacts.ts';
import { apiKey, member, person, workspace, type Person } from '../../support/actors.ts';
import { data, send, type Auth } from '../../support/client.ts';
import { until } from '../../support/embedded.ts';
import { Follower } from '../../support/live.ts';
import { mutate as mutateAt } from '../../support/mutate.ts';
import { startTestServer, testFolder, type TestServer } from '../../support/server.ts';
import { application, deployment } from '../../support/world.ts';
import { answering, plain, raw, repository, team, type Team } from '../deployments/harness.ts';
import { workspaceDeleted, workspaceReceipt } from './support.ts';

let server: TestServer;
let ada: Person;
let folder: string;
beforeAll(async () => {
  server = await startTestServer();
  ada = await person(server.url);
  folder = await testFolder();
});
afterAll(async () => {
  await server.stop();
  await rm(folder, { recursive: true, force: true });
});

const db = () => server.running.app.db;
const mutate = (verb: string, input: object, auth?: Auth, fields?: string) =>
  mutateAt(server.url, verb, input, auth, fields);
const slugOf = async (id: string, auth: Auth = ada) =>
  (
    await data<{ node: { slug: string } }>(
      server.url,
      'query ($id: ID!) { node(id: $id) { ... on Workspace { slug } } }',
      { id },
      auth,
    )
  ).node.slug;
const refused = async (auth: Auth) =>
  (await send(server.url, '{ viewer { id } }', {}, auth)).errors?.[0]?.extensions?.['code'];

const outcome = (receipt: string) => workspaceReceipt(server.url, receipt);
const over = (receipt: string) => workspaceDeleted(server.url, receipt);
const remove = async (id: string, auth: Auth = ada): Promise<string> => {
  const { slug } = await db().workspace.findUniqueOrThrow({ where: { id: rowId('Workspace', id) } });
  const asked = await mutate('deleteWorkspace', { id, slug }, auth, 'receipt');
  if (asked.__typename !== 'DeleteWorkspaceSuccess') throw new Error(`${asked.__typename}: ${asked.message}`);
  return asked['receipt'] as string;
};

/** Tables that still have a row with one of these ids in it, anywhere. */
async function traces(ids: readonly string[]): Promise<string[]> {
  const { pool } = server.running.app.database;
  const { rows } = await pool.query<{ name: string }>(
    `select table_name as name from information_schema.tables where table_schema = 'public' and table_type = 'BASE TABLE'`,
  );
  const found: string[] = [];
  for (const { name } of rows) {
    const { rows: held } = await pool.query(
      `select 1 from "${name}" t where exists (select 1 from unnest($1::text[]) id where to_jsonb(t)::text like '%' || id || '%') limit 1`,
      [ids],
    );
    if (held.length > 0) found.push(name);
  }
  return found;
}

describe('changing', () => {
  test('name and short name, each alone, by administrators', async () => {
    const { id } = await workspace(server.url, ada);
    const slug = `new-${newId()}`;
    const fields = 'workspace { name slug }';
    expect(await mutate('updateWorkspace', { id, name: ' New ' }, ada, fields)).toMatchObject({
      workspace: { name: 'New', slug: await slugOf(id) },
    });
    expect(await mutate('updateWorkspace', { id, slug }, ada, fields)).toMatchObject({
      workspace: { name: 'New', slug },
    });
    const [admin, one] = [await member(server.url, ada, id, 'ADMIN'), await member(server.url, ada, id, 'MEMBER')];
    expect((await mutate('updateWorkspace', { id, name: 'x' }, admin)).__typename).toBe('UpdateWorkspaceSuccess');
    expect((await mutate('updateWorkspace', { id, name: 'x' }, one)).__typename).toBe('Forbidden');
    expect((await mutate('updateWorkspace', { id, name: 'x' }, await person(server.url))).__typename).toBe('NotFound');
  });

  test('to what is taken, malformed or nothing is refused', async () => {
    const [{ id }, other] = [await workspace(server.url, ada), await workspace(server.url, ada)];
    expect((await mutate('updateWorkspace', { id, slug: await slugOf(other.id) }, ada)).__typename).toBe('Conflict');
    for (const [input, at] of [
      [{ slug: 'UPPER' }, 'slug'],
      // The server's own; it is nobody else's either.
      [{ slug: '_instance' }, 'slug'],
      [{ name: '' }, 'name'],
      [{}, ''],
      [{ name: null, slug: null }, ''],
    ] as const)
      expect(await mutate('updateWorkspace', { id, ...input }, ada)).toMatchObject({
        __typename: 'ValidationError',
        issues: [{ path: at }],
      });
    // Two who want the same one.
    const slug = `wanted-${newId()}`;
    const answers = await Promise.all([id, other.id].map((one) => mutate('updateWorkspace', { id: one, slug }, ada)));
    expect(answers.map(({ __typename }) => __typename).toSorted()).toEqual(['Conflict', 'UpdateWorkspaceSuccess']);
  });

  test("the server's own workspace is not its operators' to change, fill or delete", async () => {
    const operator = await startTestServer({ SWITCHYARD_ROLES: 'api', SWITCHYARD_OPERATORS: 'root@example.com' });
    try {
      const root = await person(operator.url, 'Root');
      await operator.running.app.db.user.update({
        where: { id: rowId('User', root.id) },
        data: { email: 'root@example.com', emailVerifiedAt: new Date() },
      });
      const { workspace: instance } = await data<{ workspace: { id: string; viewerRole: string } }>(
        operator.url,
        '{ workspace(slug: "_instance") { id viewerRole } }',
        {},
        root,
      );
      expect(instance.viewerRole).toBe('OWNER');
      const { id } = instance;
      for (const [verb, input] of [
        ['updateWorkspace', { id, name: 'x' }],
        ['deleteWorkspace', { id, slug: 'instance' }],
        ['inviteMember', { workspaceId: id, email: 'a@example.com', role: 'VIEWER' }],
        ['createApiKey', { workspaceId: id, name: 'x', role: 'VIEWER' }],
      ] as const)
        expect((await mutateAt(operator.url, verb, input, root)).__typename).toBe('Forbidden');
    } finally {
      await operator.stop();
    }
  });
});

describe('deleting', () => {
  test('is the owners’, and asks for the short name again', async () => {
    const { id } = await workspace(server.url, ada);
    const slug = await slugOf(id);
    for (const role of ['ADMIN', 'MEMBER', 'VIEWER'] as const) {
      const one = await member(server.url, ada, id, role);
      expect((await mutate('deleteWorkspace', { id, slug }, one)).__typename).toBe('Forbidden');
    }
    expect((await mutate('deleteWorkspace', { id, slug }, await person(server.url))).__typename).toBe('NotFound');
    for (const wrong of ['', `${slug}x`, slug.toUpperCase()])
      expect(await mutate('deleteWorkspace', { id, slug: wrong }, ada)).toMatchObject({
        __typename: 'ValidationError',
        issues: [{ path: 'slug' }],
      });
    expect(await slugOf(id)).toBe(slug);
  });

  test('closes it at once: rights, keys and streams end, and then every trace is gone', async () => {
    const { id } = await workspace(server.url, ada);
    const slug = await slugOf(id);
    const bob = await member(server.url, ada, id, 'MEMBER');
    const key = await apiKey(server.url, ada, id, 'ADMIN');
    const made = await mutate(
      'createUpload',
      {
        workspaceId: id,
        name: 'a.txt',
        contentType: 'text/plain',
        sizeBytes: 5,
        sha256: createHash('sha256').update('hello').digest('hex'),
      },
      ada,
      'artifact { id } upload { url }',
    );
    const artifactId = rowId('Artifact', made['artifact'].id);
    const upload = { method: 'PUT', body: 'hello', headers: { 'content-type': 'text/plain' } };
    expect((await fetch(made['upload'].url, upload)).status).toBe(201);
    expect(await server.running.app.blobs.stat(artifactId)).not.toBeNull();
    const followers = [ada, bob, key].map(
      (auth) => new Follower(server.url, auth, 'workspaceEvents', { id, after: null }),
    );
    try {
      await until('the streams have begun', async () => followers.every(({ items }) => items.length > 0));
      const receipt = await remove(id);
      // Promised within a second.
      await until('the streams ended', async () => followers.every(({ closed }) => closed !== null), 10_000);
      expect(followers.map(({ closed }) => closed?.code)).toEqual([4403, 4403, 4403]);
      expect(await refused(key)).toBe('UNAUTHENTICATED');
      for (const auth of [ada, bob]) {
        const found = await data<{ node: unknown; workspace: unknown }>(
          server.url,
          'query ($id: ID!, $slug: String!) { node(id: $id) { id } workspace(slug: $slug) { id } }',
          { id, slug },
          auth,
        );
        expect(found).toEqual({ node: null, workspace: null });
      }
      expect((await mutate('deleteWorkspace', { id, slug }, ada)).__typename).toBe('NotFound');
      const done = await over(receipt);
      expect(done).toMatchObject({ status: 'SUCCEEDED', phase: 'DELETED' });
      expect(done.report).toContainEqual({ name: 'files', removed: 1, left: [] });
      expect(await server.running.app.blobs.stat(artifactId)).toBeNull();
      // What tells of the deletion itself names it, and the note that it was asked for once more; nothing else.
      await server.running.app.use(Denials).flush();
      const gone = [rowId('Workspace', id), rowId('ApiKey', key.id), rowId('Membership', bob.membershipId), artifactId];
      expect((await traces(gone)).toSorted()).toEqual(['event', 'run', 'workspace_deletion']);
      const { rows: notes } = await server.running.app.database.pool.query(
        `select type, data->>'verb' as verb from event where to_jsonb(event)::text like any($1)`,
        [gone.map((one) => `%${one}%`)],
      );
      expect(notes).toEqual([{ type: 'access.denied', verb: 'identity.deleteWorkspace' }]);
      expect(await traces([slug])).toEqual([]);
      // The short name is free, and the people are still there.
      expect((await mutate('createWorkspace', { name: 'x', slug }, bob)).__typename).toBe('CreateWorkspaceSuccess');
    } finally {
      await Promise.all(followers.map((follower) => follower.close()));
    }
  });

  test('a large one goes in small statements', async () => {
    const { id } = await workspace(server.url, ada);
    const workspaceId = rowId('Workspace', id);
    const { pool } = server.running.app.database;
    await pool.query(
      `with made as (
         insert into run (id, workspace_id, kind, status, phase, deadline_at, updated_at)
         select gen_random_uuid(), $1, 'Deployment', 'SUCCEEDED', 'DEPLOYED', now(), now() from generate_series(1, 900) returning id
       ) insert into run_step (id, run_id, name, position, updated_at) select gen_random_uuid(), id, 'x', 0, now() from made`,
      [workspaceId],
    );
    await pool.query(`
      create function too_many() returns trigger language plpgsql as $$ begin
        if (select count(*) from gone) > 200 then raise exception 'too many at once'; end if; return null;
      end $$;
      create trigger too_many after delete on run referencing old table as gone for each statement execute function too_many()`);
    try {
      expect((await over(await remove(id))).status).toBe('SUCCEEDED');
    } finally {
      await pool.query('drop function too_many cascade');
    }
    expect(await db().run.count({ where: { workspaceId } })).toBe(0);
  });

  test('bytes that come after it are not kept', async () => {
    const { id } = await workspace(server.url, ada);
    const artifactId = newId();
    await db().artifact.create({
      data: { id: artifactId, workspaceId: rowId('Workspace', id), name: 'late', contentType: 'text/plain', sizeBytes: 1n, sha256: '0'.repeat(64) }, // prettier-ignore
    });
    await over(await remove(id));
    const stored = await server.running.app.blobs.put(artifactId, Readable.from(['x']), { maxBytes: 10 });
    await server.running.app.use(Artifacts).uploaded(artifactId, stored);
    expect(await server.running.app.blobs.stat(artifactId)).toBeNull();
  });

  test('of two owners who ask at once, one gets a receipt', async () => {
    const { id } = await workspace(server.url, ada);
    const bob = await member(server.url, ada, id, 'OWNER');
    const slug = await slugOf(id);
    const answers = await Promise.all(
      [ada, bob].map((auth) => mutate('deleteWorkspace', { id, slug }, auth, 'receipt')),
    );
    expect(answers.map(({ __typename }) => __typename).toSorted()).toEqual(['DeleteWorkspaceSuccess', 'NotFound']);
    const receipt = answers.find((answer) => answer['receipt'])?.['receipt'] as string;
    expect((await over(receipt)).phase).toBe('DELETED');
  });

  test('a repeat with the same key gets the same receipt, though nobody has rights there any more', async () => {
    const { id } = await workspace(server.url, ada);
    const bob = await member(server.url, ada, id, 'OWNER');
    const input = { id, slug: await slugOf(id), idempotencyKey: 'end' };
    const ask = (auth: Auth, changed: object = {}) =>
      mutate('deleteWorkspace', { ...input, ...changed }, auth, 'receipt eventCursor');
    const [first, racing] = await Promise.all([ask(ada), ask(ada)]);
    expect([first.__typename, racing.__typename]).toEqual(['DeleteWorkspaceSuccess', 'DeleteWorkspaceSuccess']);
    expect(racing['receipt']).toBe(first['receipt']);
    // One of them began it.
    expect([first['eventCursor'], racing['eventCursor']].filter((cursor) => cursor === null)).toHaveLength(1);
    expect((await over(first['receipt'] as string)).phase).toBe('DELETED');
    expect(await ask(ada)).toMatchObject({ receipt: first['receipt'], eventCursor: null });
    expect((await ask(ada, { slug: 'other' })).__typename).toBe('IdempotencyConflict');
    // The key is hers: to others the workspace is not there.
    expect((await ask(bob)).__typename).toBe('NotFound');
    expect((await ask(ada, { idempotencyKey: 'x'.repeat(201) })).__typename).toBe('ValidationError');
  });

  test.each(['', 'x', 'ä', 'x'.repeat(500), '%'])('the receipt %j is none', async (receipt) => {
    expect(await outcome(receipt)).toBeNull();
  });

  test('the receipt is stored as a hash, and no member or stranger sees the run', async () => {
    const { id } = await workspace(server.url, ada);
    const receipt = await remove(id);
    await over(receipt);
    expect(await traces([receipt])).toEqual([]);
    const { runId } = await db().workspaceDeletion.findUniqueOrThrow({
      where: { workspaceId: rowId('Workspace', id) },
    });
    const global = Buffer.from(`WorkspaceDeletion:${runId}`).toString('base64');
    const { node } = await data<{ node: unknown }>(server.url, 'query ($id: ID!) { node(id: $id) { id } }', { id: global }, ada); // prettier-ignore
    expect(node).toBeNull();
    expect((await mutate('cancelRun', { id: global }, ada)).__typename).toBe('NotFound');
  });
});

describe('deleting what is deployed', () => {
  let made = 0;
  async function deployed(on: Team, files: Readonly<Record<string, string>> = {}): Promise<string> {
    const name = `app-${++made}`;
    const source = await repository(folder, name);
    await source.commit({ ...plain, 'server.js': answering(name), ...files });
    return on.application({ name, repositoryUrl: source.url });
  }

  test('ends what serves, gives the address back and removes the files', async () => {
    const on = await team(server.url);
    const [serving, idle] = [await deployed(on), await deployed(on)];
    expect((await on.deploy(serving)).phase).toBe('DEPLOYED');
    const address = (await on.address(serving)) as string;
    const release = await db().release.findFirstOrThrow({ where: { activeOf: { id: raw('Application', serving) } } });
    const identity = release.instance as { pid: number; startTime: string };
    expect(await isAlive(identity)).toBe(true);
    const done = await over(await remove(on.workspaceId, on.who));
    expect(done).toMatchObject({ phase: 'DELETED' });
    expect(done.report).toContainEqual({ name: 'applications', removed: 2, left: [] });
    expect(await isAlive(identity)).toBe(false);
    await expect(access((release.artifact as { path: string }).path)).rejects.toMatchObject({ code: 'ENOENT' });
    await expect(fetch(address)).rejects.toThrow('fetch failed');
    expect(await traces([raw('Application', serving), raw('Application', idle), release.id])).toEqual([]);
  });

  test('while a deployment runs: it is ended first, and leaves nothing behind', async () => {
    const on = await team(server.url);
    const id = await deployed(on, {
      'package.json': JSON.stringify({ name: 'slow', main: 'server.js', scripts: { build: 'sleep 600' } }),
    });
    const asked = await on.createDeployment({ applicationId: id });
    const runId = raw('Deployment', asked.deployment?.id ?? '');
    await until('it builds', async () => (await db().runChild.count({ where: { runId } })) > 0, 30_000);
    const child = await db().runChild.findFirstOrThrow({ where: { runId } });
    const done = await over(await remove(on.workspaceId, on.who));
    expect(done.phase).toBe('DELETED');
    expect(done.report).toContainEqual({ name: 'runs', removed: 1, left: [] });
    expect(await isAlive(child)).toBe(false);
    expect(await traces([runId])).toEqual([]);
    const shared = server.env['SWITCHYARD_SHARED_DIR'] ?? '';
    const names = await readdir(path.join(shared, 'host'), { recursive: true });
    expect(names.filter((name) => name.includes(runId))).toEqual([]);
  });

  test('on a lost host: the report says what is left, and its workers will end the instances', async () => {
    const { id } = await workspace(server.url, ada);
    const workspaceId = rowId('Workspace', id);
    const hostId = newId();
    const longAgo = new Date(Date.now() - 3_600_000);
    await db().host.create({
      data: { id: hostId, name: 'lost', lastSeenAt: longAgo, agentId: newId(), agentUntil: longAgo },
    });
    const of = {
      id: workspaceId,
      slug: '',
      marker: 'lost',
      hostId,
      owner: { id: rowId('User', ada.id), token: ada.token },
    };
    const { app } = server.running;
    const applicationId = await application(app, of);
    const runId = await deployment(app, of, applicationId, { status: 'SUCCEEDED', phase: 'DEPLOYED' });
    // One that its worker had begun, and one that nobody will take.
    await deployment(app, of, applicationId, { status: 'RUNNING', phase: 'BUILDING' });
    await deployment(app, of, applicationId, { status: 'QUEUED', phase: 'PENDING' });
    const release = await db().release.create({
      data: {
        applicationId,
        deploymentId: runId,
        status: 'ACTIVE',
        commitSha: 'a'.repeat(40),
        artifact: { path: '/lost', startCommand: 'x' },
        instance: { pid: 4_000_000, startTime: 'then' },
      },
    });
    await db().application.update({ where: { id: applicationId }, data: { activeReleaseId: release.id } });
    const done = await over(await remove(id));
    expect(done.phase).toBe('DELETED');
    expect(done.report).toContainEqual({ name: 'runs', removed: 2, left: [] });
    expect(done.report).toContainEqual({
      name: 'applications',
      removed: 0,
      left: [expect.stringContaining(`1 application on the host ${hostId}, which is lost`)],
    });
    expect(await db().runChild.findMany({ where: { hostId } })).toMatchObject([{ runId, pid: 4_000_000 }]);
    expect(await db().workspace.count({ where: { id: workspaceId } })).toBe(0);
  });
});
