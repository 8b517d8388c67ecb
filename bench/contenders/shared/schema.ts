import { makeExecutableSchema } from '@graphql-tools/schema';
import { GraphQLScalarType } from 'graphql';
import { globalId } from '../../data/shape.ts';
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
  type Deployment implements Node {
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

/** The context of a request: who asks, and their look-ups. */
export const contextOf = async (authorization: string | undefined): Promise<Context> => ({
  data: new Data(await actorOf(authorization)),
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

const idOf = (type: string) => ({ id: (row: Row) => globalId(type, row.id) });
const tagged = <R extends object>(type: string, row: R | null) => row && { ...row, __typename: type };
const resolveType = ({ __typename }: { __typename: string }): string => __typename;

export const schema = makeExecutableSchema<Context>({
  typeDefs,
  resolvers: {
    DateTime: new GraphQLScalarType({ name: 'DateTime', serialize: (value) => (value as Date).toISOString() }),
    Node: { __resolveType: resolveType },
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
