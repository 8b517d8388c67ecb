import { makeExecutableSchema } from '@graphql-tools/schema';
import { GraphQLScalarType } from 'graphql';
import { globalId } from '../../data/shape.ts';
import { events, type EventRow, workspaceOfRun } from './feed.ts';
import { type ApplicationRow, Data, type DeploymentRow, actorOf } from './data.ts';

/** The part of the server's schema that the workloads ask for. */
const typeDefs = /* GraphQL */ `
  scalar DateTime
  interface Node {
    id: ID!
  }
  type Workspace implements Node {
    id: ID!
    name: String!
    applications(first: Int): WorkspaceApplicationsConnection!
  }
  type WorkspaceApplicationsConnection {
    nodes: [Application!]!
  }
  type User implements Node {
    id: ID!
    name: String!
  }
  type Application implements Node {
    id: ID!
    name: String!
    workspace: Workspace!
    deployments(first: Int, after: String): ApplicationDeploymentsConnection!
  }
  type ApplicationDeploymentsConnection {
    nodes: [Deployment!]!
    totalCount: Int!
    pageInfo: PageInfo!
  }
  type PageInfo {
    hasNextPage: Boolean!
    endCursor: String
  }
  type RunStep {
    name: String!
    status: String!
  }
  type Deployment implements Node & Run {
    id: ID!
    status: String!
    ref: String!
    createdAt: DateTime!
    application: Application!
    actor: User
    steps: [RunStep!]!
  }
  type NotFound {
    message: String!
  }
  type Forbidden {
    message: String!
  }
  type CreateDeploymentSuccess {
    deployment: Deployment!
  }
  union CreateDeploymentResult = CreateDeploymentSuccess | NotFound | Forbidden
  input CreateDeploymentInput {
    applicationId: ID!
    ref: String
  }
  interface Run {
    id: ID!
    status: String!
    createdAt: DateTime!
    actor: User
  }
  scalar JSON
  scalar BigInt
  type Event {
    seq: BigInt!
    type: String!
    from: String
    to: String
    subjectId: ID!
    runId: ID
    at: DateTime!
    data: JSON!
    run: Run
  }
  type StreamCheckpoint {
    cursor: String!
  }
  union EventStreamItem = Event | StreamCheckpoint
  type DeploymentUpdate {
    event: Event!
    deployment: Deployment
  }
  union DeploymentStreamItem = DeploymentUpdate | StreamCheckpoint
  input EventFilter {
    types: [String!]
  }
  type Subscription {
    workspaceEvents(workspaceId: ID!, after: String, filter: EventFilter): EventStreamItem!
    runEvents(id: ID!, after: String): EventStreamItem!
    deploymentUpdated(of: ID!): DeploymentStreamItem!
  }
  type Query {
    node(id: ID!): Node
    workspace(slug: String!): Workspace
  }
  type Mutation {
    createDeployment(input: CreateDeploymentInput!): CreateDeploymentResult!
  }
`;

export interface Context {
  readonly data: Data;
}

/**
 * The context of a request: who asks, and their look-ups.
 * @param live it lasts for many events: nothing is remembered from one to the next
 */
export const contextOf = async (authorization: string | undefined, live = false): Promise<Context> => ({
  data: new Data(await actorOf(authorization), { cache: !live }),
});

const decode = (id: string): [type: string, id: string] => {
  const [type = '', row = ''] = Buffer.from(id, 'base64').toString().split(':');
  return [type, row];
};

interface Row {
  readonly id: string;
}
interface Page {
  readonly of: string;
  readonly nodes: readonly DeploymentRow[];
  readonly hasNextPage: boolean;
}

/** An event, and the row that it is told with. */
type Told = EventRow & { readonly __typename: 'Event' };

/** Events of a workspace that the actor may see. */
async function* eventsFor(
  data: Data,
  workspaceId: string,
  after: string | null = null,
  filter: ((event: EventRow) => boolean) | null = null,
) {
  if (!(await data.workspace.load(workspaceId))) throw new Error('There is no such workspace');
  for await (const event of events(workspaceId, after))
    if (filter?.(event) ?? true) yield { ...event, __typename: 'Event' };
}

async function* mapped<T, R>(all: AsyncIterable<T>, to: (one: T) => R): AsyncGenerator<R> {
  for await (const one of all) yield to(one);
}

/** The seq of a cursor, as the server makes them. */
const seqOf = (cursor: string): string =>
  (JSON.parse(Buffer.from(cursor, 'base64url').toString()) as [string, number, string])[2];

const same = (value: unknown): unknown => value;

const idOf = (type: string) => ({ id: (row: Row) => globalId(type, row.id) });
const tagged = <R extends object>(type: string, row: R | null) => row && { ...row, __typename: type };
const resolveType = ({ __typename }: { __typename: string }): string => __typename;

export const schema = makeExecutableSchema<Context>({
  typeDefs,
  resolvers: {
    DateTime: new GraphQLScalarType({ name: 'DateTime', serialize: (value) => (value as Date).toISOString() }),
    JSON: new GraphQLScalarType({ name: 'JSON' }),
    BigInt: new GraphQLScalarType({ name: 'BigInt', serialize: Number }),
    Node: { __resolveType: resolveType },
    Run: { __resolveType: () => 'Deployment' },
    EventStreamItem: { __resolveType: resolveType },
    DeploymentStreamItem: { __resolveType: resolveType },
    Subscription: {
      workspaceEvents: {
        resolve: same,
        subscribe: (
          _: unknown,
          args: { workspaceId: string; after?: string; filter?: { types?: string[] } },
          { data },
        ) =>
          eventsFor(
            data,
            decode(args.workspaceId)[1],
            args.after ? seqOf(args.after) : null,
            ({ type }) => args.filter?.types?.includes(type) ?? true,
          ),
      },
      runEvents: {
        resolve: same,
        subscribe: async (_: unknown, args: { id: string }, { data }) => {
          const run = decode(args.id)[1];
          return eventsFor(data, await workspaceOfRun(run), null, ({ run_id }) => run_id === run);
        },
      },
      deploymentUpdated: {
        resolve: same,
        subscribe: (_: unknown, args: { of: string }, { data }) =>
          mapped(eventsFor(data, decode(args.of)[1]), (event) => ({ __typename: 'DeploymentUpdate', event })),
      },
    },
    Event: {
      from: (event: Told) => event.from_state,
      to: (event: Told) => event.to_state,
      subjectId: (event: Told) => globalId(event.subject_type, event.subject_id),
      runId: (event: Told) => event.run_id && globalId('Deployment', event.run_id),
      run: (event: Told, _, { data }) => (event.run_id ? data.deployment.load(event.run_id) : null),
    },
    DeploymentUpdate: {
      deployment: ({ event }: { event: Told }, _, { data }) => data.deployment.load(event.subject_id),
    },
    CreateDeploymentResult: { __resolveType: resolveType },
    Query: {
      node: async (_, { id }: { id: string }, { data }) => {
        const [type, row] = decode(id);
        if (type === 'Deployment') return tagged(type, await data.deployment.load(row));
        if (type === 'Application') return tagged(type, await data.application.load(row));
        if (type === 'Workspace') return tagged(type, await data.workspace.load(row));
        return null;
      },
      workspace: (_, { slug }: { slug: string }, { data }) => data.workspaceBySlug(slug),
    },
    Mutation: {
      createDeployment: async (_, { input }: { input: { applicationId: string; ref?: string } }, { data }) => {
        const made = await data.deploy(decode(input.applicationId)[1], input.ref ?? null);
        if (typeof made === 'string') return { __typename: made, message: 'No.' };
        return { __typename: 'CreateDeploymentSuccess', deployment: made };
      },
    },
    Workspace: {
      ...idOf('Workspace'),
      applications: async (row: Row, { first }: { first?: number }, { data }) => ({
        nodes: await data.applicationsOf(row.id, first ?? 20),
      }),
    },
    User: idOf('User'),
    Application: {
      ...idOf('Application'),
      workspace: (row: ApplicationRow, _, { data }) => data.workspace.load(row.workspaceId),
      deployments: async (row: Row, args: { first?: number; after?: string }, { data }): Promise<Page> => {
        const first = args.first ?? 20;
        const found = await data.deploymentsOf(row.id, first, args.after ? decode(args.after)[1] : null);
        return { of: row.id, nodes: found.slice(0, first), hasNextPage: found.length > first };
      },
    },
    ApplicationDeploymentsConnection: {
      totalCount: (page: Page, _, { data }) => data.totals.load(page.of),
      pageInfo: ({ nodes, hasNextPage }: Page) => {
        const last = nodes.at(-1);
        return { hasNextPage, endCursor: last ? globalId('after', last.id) : null };
      },
    },
    Deployment: {
      ...idOf('Deployment'),
      application: (row: DeploymentRow, _, { data }) => data.application.load(row.applicationId),
      actor: (row: DeploymentRow, _, { data }) => (row.actorId ? data.user.load(row.actorId) : null),
      steps: (row: Row, _, { data }) => data.steps.load(row.id),
    },
  },
});
