import { afterAll, beforeAll, expect, test } from 'vitest';
import { globalId } from '#kernel/graphql/global-id.ts';
import { newId } from '#kernel/ids.ts';
import { data, send } from '../../support/client.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';
import { roundTrips, statements } from '../../support/statements.ts';
import { application, deployment, memberOf, rowOf, tenant, type Tenant } from '../../support/world.ts';

/*
 * How many SQL statements a request costs, and that it is as many for 20 items as for 5: nothing is asked once an item.
 * One of them is always the look-up of who asks. Not compiled: then most of these would be one statement more.
 */

let server: TestServer;
let of: Tenant;
let runs: string[];
/** A workspace with documents. */
let papers: Tenant;

beforeAll(async () => {
  const env = { SWITCHYARD_ROLES: 'api', SWITCHYARD_MAX_COST: '100000', SWITCHYARD_COMPILE: 'false' };
  server = await startTestServer(env, { hubPollMs: 3_600_000 });
  const { app } = server.running;
  of = await tenant(app, 'counted');
  for (let i = 0; i < 20; i++) await memberOf(app, of, 'MEMBER');
  runs = [];
  for (let i = 0; i < 20; i++) {
    const applicationId = (await rowOf['Application']?.(app, of)) ?? '';
    // Half of them wait, so that places in the queue are asked for too.
    const state =
      i % 2 ? ({ status: 'QUEUED', phase: 'PENDING' } as const) : ({ status: 'SUCCEEDED', phase: 'DEPLOYED' } as const);
    const id = await deployment(app, of, applicationId, state);
    runs.push(globalId('Deployment', id));
    const release = await app.db.release.create({
      data: {
        id: newId(),
        applicationId,
        deploymentId: id,
        status: 'ACTIVE',
        commitSha: 'c'.repeat(40),
        artifact: { path: 'x', startCommand: 'x' },
      },
    });
    await app.db.application.update({ where: { id: applicationId }, data: { activeReleaseId: release.id } });
  }
  papers = await tenant(app, 'papers');
  const reader = { workspaceId: papers.id, userId: of.owner.id, role: 'VIEWER' as const };
  await app.db.membership.create({ data: { id: newId(), ...reader } });
  for (let i = 0; i < 20; i++) await rowOf['ExtractionJob']?.(app, papers);
  for (let i = 0; i < 19; i++) {
    const other = await tenant(app, `other${i}`);
    for (const userId of [of.owner.id, (await memberOf(app, other, 'VIEWER')).id]) {
      await app.db.membership.upsert({
        where: { workspaceId_userId: { workspaceId: other.id, userId } },
        create: { id: newId(), workspaceId: other.id, userId, role: 'VIEWER' },
        update: {},
      });
    }
  }
});
afterAll(() => server.stop());

interface Counted {
  readonly query: string;
  readonly variables?: (n: number) => object;
  /** Items in the answer, to see that there are as many as were asked for. */
  readonly items: (answer: never) => readonly unknown[];
  readonly expected: number;
}

const run = `id kind status queuePosition steps { name status } actor { id name }
  events(first: 5) { nodes { seq type } } logs(first: 5) { nodes { seq text } }`;

const cases: Readonly<Record<string, Counted>> = {
  'workspaces with memberships and users': {
    query: `query ($n: Int!) { workspaces(first: $n) { nodes { name memberships(first: 10) { nodes { role user { name } } } } } }`,
    items: (answer: { workspaces: { nodes: unknown[] } }) => answer.workspaces.nodes,
    // The third tells which of the people may be seen.
    expected: 3,
  },
  'workspaces with counts': {
    query: `query ($n: Int!) { workspaces(first: $n) { totalCount nodes { name memberships { totalCount } runs { totalCount } } } }`,
    items: (answer: { workspaces: { nodes: unknown[] } }) => answer.workspaces.nodes,
    expected: 3,
  },
  'applications with workspace and active release': {
    query: `query ($n: Int!, $slug: String!) { workspace(slug: $slug) { applications(first: $n) { nodes { name workspace { name } activeRelease { id status } } } } }`,
    items: (answer: { workspace: { applications: { nodes: unknown[] } } }) => answer.workspace.applications.nodes,
    expected: 2,
  },
  'applications with deployments': {
    query: `query ($n: Int!, $slug: String!) { workspace(slug: $slug) { applications(first: $n) { nodes { name deployments(first: 3) { totalCount nodes { id phase release { id } } edges { node { ref steps { name } } } } } } } }`,
    items: (answer: { workspace: { applications: { nodes: unknown[] } } }) => answer.workspace.applications.nodes,
    expected: 3,
  },
  'applications with counts of deployments': {
    query: `query ($n: Int!, $slug: String!) { workspace(slug: $slug) { applications(first: $n) { nodes { name deployments(first: 3) { totalCount } } } } }`,
    items: (answer: { workspace: { applications: { nodes: unknown[] } } }) => answer.workspace.applications.nodes,
    expected: 3,
  },
  'applications with their last deployments': {
    query: `query ($n: Int!, $slug: String!) { workspace(slug: $slug) { applications(first: $n) { nodes { name deployments(first: 3) { nodes { id phase application { name } steps { name } } } } } } }`,
    items: (answer: { workspace: { applications: { nodes: unknown[] } } }) => answer.workspace.applications.nodes,
    expected: 2,
  },
  'applications with cursors of deployments': {
    query: `query ($n: Int!, $slug: String!) { workspace(slug: $slug) { applications(first: $n) { nodes { name deployments(first: 3) { edges { cursor node { id status } } } } } } }`,
    items: (answer: { workspace: { applications: { nodes: unknown[] } } }) => answer.workspace.applications.nodes,
    expected: 2,
  },
  'applications with pages of deployments alone': {
    query: `query ($n: Int!, $slug: String!) { workspace(slug: $slug) { applications(first: $n) { nodes { name deployments(first: 3) { pageInfo { hasNextPage } } } } } }`,
    items: (answer: { workspace: { applications: { nodes: unknown[] } } }) => answer.workspace.applications.nodes,
    expected: 2,
  },
  'runs with steps, events, logs, actor and queue position': {
    query: `query ($n: Int!, $slug: String!) { workspace(slug: $slug) { runs(first: $n) { nodes { ${run} } } } }`,
    items: (answer: { workspace: { runs: { nodes: unknown[] } } }) => answer.workspace.runs.nodes,
    expected: 6,
  },
  'deployments with application and release': {
    query: `query ($n: Int!, $slug: String!) { workspace(slug: $slug) { runs(first: $n) { nodes { id ... on Deployment { phase ref application { name } release { id } } } } } }`,
    items: (answer: { workspace: { runs: { nodes: unknown[] } } }) => answer.workspace.runs.nodes,
    expected: 2,
  },
  'nodes by id': {
    query: `query ($ids: [ID!]!) { nodes(ids: $ids) { id ... on Deployment { status phase application { name } steps { name } } } }`,
    variables: (n) => ({ ids: runs.slice(0, n) }),
    items: (answer: { nodes: unknown[] }) => answer.nodes.filter((node) => node !== null),
    expected: 2,
  },
  'workspaces with quotas': {
    query: `query ($n: Int!) { workspaces(first: $n) { nodes { deploymentQuota { maxApplications applications maxConcurrentDeployments concurrentDeployments retainedReleases maxDiskMb diskMb } } } }`,
    items: (answer: { workspaces: { nodes: unknown[] } }) => answer.workspaces.nodes,
    expected: 6,
  },
  'applications with their environments': {
    query: `query ($n: Int!, $slug: String!) { workspace(slug: $slug) { applications(first: $n) { nodes { environment { version variables { name value } versions { version } } } } } }`,
    items: (answer: { workspace: { applications: { nodes: unknown[] } } }) => answer.workspace.applications.nodes,
    expected: 4,
  },
  'documents with their timelines and jobs': {
    query: `query ($n: Int!, $slug: String!) { workspace(slug: $slug) { documents(first: $n) { nodes { name createdBy { name } download { url }
      events(first: 5) { nodes { type } } jobs(first: 5) { nodes { phase queuePosition configuration { name } configurationVersion warnings { code } } } } } } }`,
    variables: () => ({ slug: papers.slug }),
    items: (answer: { workspace: { documents: { nodes: unknown[] } } }) => answer.workspace.documents.nodes,
    expected: 5,
  },
  'configurations with their versions, timelines and jobs': {
    query: `query ($n: Int!, $slug: String!) { workspace(slug: $slug) { extractionConfigurations(first: $n) { nodes { name definition { columns { name } }
      versions(first: 5) { totalCount nodes { version createdBy { name } } } events(first: 5) { nodes { type } } jobs(first: 5) { nodes { phase document { name } } } } } } }`,
    variables: () => ({ slug: papers.slug }),
    items: (answer: { workspace: { extractionConfigurations: { nodes: unknown[] } } }) =>
      answer.workspace.extractionConfigurations.nodes,
    expected: 5,
  },
  'runs with what hangs on their events': {
    query: `query ($n: Int!, $slug: String!) { workspace(slug: $slug) { runs(first: $n) { nodes { events(first: 5) { nodes { seq run { id status } } } } } } }`,
    items: (answer: { workspace: { runs: { nodes: unknown[] } } }) => answer.workspace.runs.nodes,
    expected: 4,
  },
};

test.each(Object.entries(cases))('%s', async (_, { query, variables, items, expected }) => {
  const ask = async (n: number): Promise<string[]> => {
    let answer: unknown;
    const texts = await statements(server.running.app.database.pool, async () => {
      answer = await data(server.url, query, { n, slug: of.slug, ...variables?.(n) }, of.owner);
    });
    expect(items(answer as never)).toHaveLength(n);
    return texts;
  };
  const few = await ask(5);
  const many = await ask(20);
  expect({ few: few.length, many: many.length, ...(many.length === expected ? {} : { texts: many }) }).toEqual({
    few: expected,
    many: expected,
  });
});

test('viewer', async () => {
  const texts = await statements(server.running.app.database.pool, () =>
    data(server.url, '{ viewer { id name email } }', {}, of.owner),
  );
  expect(texts).toHaveLength(2);
});

test('a stranger costs nothing, whether refused or not', async () => {
  const texts = await statements(server.running.app.database.pool, async () => {
    await data(server.url, '{ viewer { id } rateLimit { remaining } }');
    const refused = await send(server.url, '{ viewer { id } workspace(slug: "x") { id } }');
    expect(refused.errors?.[0]?.extensions?.['code']).toBe('UNAUTHENTICATED');
  });
  expect(texts).toEqual([]);
});

test('a deployment is asked for in three round trips, with who asks; one that gives way to it costs two more', async () => {
  const { app } = server.running;
  const applicationId = globalId('Application', await application(app, of));
  const ask = async (more: object = {}) => {
    let made = '';
    const counted = await roundTrips(async () => {
      const answer = await data<{ createDeployment: { __typename: string; deployment: { status: string } } }>(
        server.url,
        `mutation ($input: CreateDeploymentInput!) { createDeployment(input: $input) {
          __typename ... on CreateDeploymentSuccess { deployment { id status phase ref commitSha } eventCursor } } }`,
        { input: { applicationId, idempotencyKey: newId(), ...more } },
        of.owner,
      );
      made = answer.createDeployment.deployment.status;
    });
    expect(made).toBe('QUEUED');
    return counted;
  };
  await ask();
  // Prepared, and the queue known, from here on.
  const [, given] = [await ask(), await ask()];
  await app.db.run.updateMany({ where: { lockKey: { not: null }, status: 'QUEUED' }, data: { phase: 'SUPERSEDED' } });
  const { statements: texts, trips } = await ask();
  expect([trips, given.trips]).toEqual([3, 5]);
  const written = texts.slice(texts.findIndex((text) => text.startsWith('BEGIN')));
  expect([written.length, written.at(-1)]).toEqual([9, 'COMMIT']);
  // That would have commits wait for each other: workers are told behind it.
  expect(written.filter((text) => text.includes('pg_notify'))).toEqual([]);
});

test('what is answered of a new deployment is what the database has of it, known or not', async () => {
  const { app } = server.running;
  const applicationId = globalId('Application', await application(app, of));
  const fields = `id status phase ref commitSha commitSubject environmentVersion healthEvidence attempt trigger
    createdAt deadlineAt application { name } release { id } steps { name status } actor { id }`;
  const answer = await data<{ createDeployment: { deployment: { id: string } } }>(
    server.url,
    `mutation ($input: CreateDeploymentInput!) { createDeployment(input: $input) {
      ... on CreateDeploymentSuccess { deployment { ${fields} } } } }`,
    { input: { applicationId, ref: 'main' } },
    of.owner,
  );
  const { deployment: made } = answer.createDeployment;
  const { node } = await data<{ node: object }>(
    server.url,
    `query ($id: ID!) { node(id: $id) { ... on Deployment { ${fields} } } }`,
    { id: made.id },
    of.owner,
  );
  expect(made).toEqual(node);
  expect(made).toMatchObject({ status: 'QUEUED', ref: 'main', commitSha: null, commitSubject: null });
});

test('pages of deployments lie end to end, newest first', async () => {
  const { app } = server.running;
  const applicationId = (await rowOf['Application']?.(app, of)) ?? '';
  const made: string[] = [];
  for (let i = 0; i < 5; i++) made.unshift(globalId('Deployment', await deployment(app, of, applicationId)));
  const query = `query ($id: ID!, $first: Int, $last: Int, $after: String, $before: String) {
    node(id: $id) { ... on Application { deployments(first: $first, last: $last, after: $after, before: $before) {
      totalCount nodes { id } edges { cursor node { id ref } } pageInfo { hasNextPage hasPreviousPage endCursor } } } } }`;
  const page = async (args: object) => {
    const answer = await data<{
      node: {
        deployments: {
          totalCount: number;
          nodes: { id: string }[];
          edges: { node: { id: string } }[];
          pageInfo: { hasNextPage: boolean; hasPreviousPage: boolean; endCursor: string };
        };
      };
    }>(server.url, query, { id: globalId('Application', applicationId), ...args }, of.owner);
    const { totalCount, nodes, edges, pageInfo } = answer.node.deployments;
    expect([totalCount, edges.map(({ node }) => node.id)]).toEqual([5, nodes.map(({ id }) => id)]);
    return { ids: nodes.map(({ id }) => id), ...pageInfo };
  };
  const first = await page({ first: 2 });
  expect([first.ids, first.hasNextPage]).toEqual([made.slice(0, 2), true]);
  const second = await page({ first: 3, after: first.endCursor });
  expect([second.ids, second.hasNextPage]).toEqual([made.slice(2), false]);
  expect((await page({ last: 2 })).ids).toEqual(made.slice(3));
  expect((await page({ first: 0 })).ids).toEqual([]);
});
