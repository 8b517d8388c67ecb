import { afterAll, beforeAll, expect, test } from 'vitest';
import { apiKey, member, person, workspace } from '../../support/actors.ts';
import { data } from '../../support/client.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';

let server: TestServer;
beforeAll(async () => {
  server = await startTestServer({ SWITCHYARD_ROLES: 'api' });
});
afterAll(() => server.stop());

test('a person signs up, owns a workspace and lists its members', async () => {
  const ada = await person(server.url);
  const { id } = await workspace(server.url, ada);
  const bob = await member(server.url, ada, id, 'VIEWER');
  const answer = await data<{
    node: { memberships: { totalCount: number; nodes: { role: string; user: { id: string } }[] } };
  }>(
    server.url,
    `query ($id: ID!) { node(id: $id) { ... on Workspace { memberships { totalCount nodes { role user { id } } } } } }`,
    { id },
    bob,
  );
  expect(answer.node.memberships.totalCount).toBe(2);
  expect(answer.node.memberships.nodes.map((node) => node.role)).toEqual(['VIEWER', 'OWNER']);
});

test('an API key reaches its workspace only, and not after it is revoked', async () => {
  const ada = await person(server.url);
  const one = await workspace(server.url, ada);
  await workspace(server.url, ada);
  const key = await apiKey(server.url, ada, one.id, 'MEMBER');
  const list = await data<{ workspaces: { nodes: { id: string }[] } }>(
    server.url,
    `{ workspaces { nodes { id } } }`,
    {},
    key,
  );
  expect(list.workspaces.nodes).toEqual([{ id: one.id }]);
});
