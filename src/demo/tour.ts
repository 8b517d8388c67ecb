import { api, succeeded, type Api } from './api.ts';
import { demoRepository } from './repository.ts';

export interface TourOptions {
  /** Address of the GraphQL endpoint. */
  readonly url: string;
  readonly password: string;
  readonly repositoryDir: string;
  /** Folder of the sample application. */
  readonly sample: string;
  /** PATH that git is looked up in. */
  readonly searchPath: string;
  readonly say: (text?: string) => void;
  readonly title: (text: string) => void;
}

export interface TourOutcome {
  readonly token: string;
  readonly email: string;
  readonly workspaceId: string;
  readonly applicationId: string;
  readonly address: string;
}

const email = 'demo@example.com';

/**
 * Deploys a sample application by the public API, watched live, then a broken version of it, which is rolled back.
 * @throws when anything differs from what is expected
 */
export async function tour(options: TourOptions): Promise<TourOutcome> {
  const { say, title } = options;
  const token = await signIn(options);
  const client = api(options.url, token);
  try {
    title(`The server answers at ${options.url}`);
    const workspaceId = await ensureWorkspace(client);
    const repository = await demoRepository(options.repositoryDir, options.sample, options.searchPath);
    const application = await ensureApplication(client, workspaceId, repository.url);
    const version = `1.0.${application.deployments.totalCount}`;

    title(`Deploying version ${version} from ${repository.url}`);
    await repository.commitGood(version);
    const good = await deploy(client, application.id, say);
    expect(good.phase === 'DEPLOYED', `the deployment ended ${good.phase}: ${good.statusReason}`);
    const address = await addressOf(client, application.id);
    title(`GET ${address}/`);
    say(`           ${await answerOf(address, version)}`);

    title('Deploying a version whose health check fails');
    await repository.commitBroken(`${version}-broken`);
    const bad = await deploy(client, application.id, say);
    expect(bad.phase === 'ROLLED_BACK', `the broken deployment ended ${bad.phase}: ${bad.statusReason}`);
    say(`           ${bad.statusReason}`);
    say(`           last response: ${JSON.stringify(bad.healthEvidence?.lastResponse)}`);
    title(`GET ${address}/`);
    say(`           ${await answerOf(address, version)}   (the first version answers still)`);
    return { token, email, workspaceId, applicationId: application.id, address };
  } finally {
    await client.close();
  }
}

function expect(holds: boolean, otherwise: string): asserts holds {
  if (!holds) throw new Error(`The demo differs from what it should show: ${otherwise}`);
}

async function signIn({ url, password }: TourOptions): Promise<string> {
  const stranger = api(url, null);
  type Signed = { __typename: string; message?: string; token: string };
  const { signIn: known } = await stranger.query<{ signIn: Signed }>(
    `mutation ($input: SignInInput!) { signIn(input: $input) { __typename ... on SignInSuccess { token } ... on Error { message } } }`,
    { input: { email, password } },
  );
  if (known.message === undefined) return known.token;
  const { signUp } = await stranger.query<{ signUp: Signed }>(
    `mutation ($input: SignUpInput!) { signUp(input: $input) { __typename ... on SignUpSuccess { token } ... on Error { message } } }`,
    { input: { email, password, name: 'Demo' } },
  );
  return succeeded(signUp).token;
}

async function ensureWorkspace(client: Api): Promise<string> {
  const { workspace } = await client.query<{ workspace: { id: string } | null }>(`{ workspace(slug: "demo") { id } }`);
  if (workspace) return workspace.id;
  const { createWorkspace } = await client.query<{
    createWorkspace: { __typename: string; message?: string; workspace: { id: string } };
  }>(
    `mutation { createWorkspace(input: { name: "Demo", slug: "demo" }) {
      __typename ... on CreateWorkspaceSuccess { workspace { id } } ... on Error { message } } }`,
  );
  return succeeded(createWorkspace).workspace.id;
}

interface Application {
  readonly id: string;
  readonly deployments: { readonly totalCount: number };
}

async function ensureApplication(client: Api, workspaceId: string, repositoryUrl: string): Promise<Application> {
  const fields = 'id name deployments { totalCount }';
  const { node } = await client.query<{ node: { applications: { nodes: (Application & { name: string })[] } } }>(
    `query ($id: ID!) { node(id: $id) { ... on Workspace { applications(first: 100) { nodes { ${fields} } } } } }`,
    { id: workspaceId },
  );
  const known = node.applications.nodes.find(({ name }) => name === 'hello');
  if (known) return known;
  const { createApplication } = await client.query<{
    createApplication: { __typename: string; message?: string; application: Application };
  }>(
    `mutation ($input: CreateApplicationInput!) { createApplication(input: $input) {
      __typename ... on CreateApplicationSuccess { application { ${fields} } } ... on Error { message } } }`,
    { input: { workspaceId, name: 'hello', repositoryUrl, healthCheckPath: '/health', healthTimeoutS: 3 } },
  );
  return succeeded(createApplication).application;
}

interface Ended {
  readonly phase: string;
  readonly statusReason: string | null;
  readonly healthEvidence: { readonly lastResponse: unknown } | null;
}

/** Starts a deployment and tells its events and output as they arrive, until it is over. */
async function deploy(client: Api, applicationId: string, say: (text: string) => void): Promise<Ended> {
  const { createDeployment } = await client.query<{
    createDeployment: { __typename: string; message?: string; deployment: { id: string } };
  }>(
    `mutation ($id: ID!) { createDeployment(input: { applicationId: $id }) {
      __typename ... on CreateDeploymentSuccess { deployment { id } } ... on Error { message } } }`,
    { id: applicationId },
  );
  const { id } = succeeded(createDeployment).deployment;
  await Promise.all([tellEvents(client, id, say), tellOutput(client, id, say)]);
  const { node } = await client.query<{ node: Ended }>(
    `query ($id: ID!) { node(id: $id) { ... on Deployment { phase statusReason healthEvidence } } }`,
    { id },
  );
  return node;
}

async function tellEvents(client: Api, id: string, say: (text: string) => void): Promise<void> {
  type Item = {
    runEvents: { __typename: string; seq?: string; type?: string; to?: string | null; data?: { step?: string } };
  };
  const stream = client.subscribe<Item>(
    `subscription ($id: ID!) { runEvents(id: $id) { __typename ... on Event { seq type to data } } }`,
    { id },
  );
  for await (const { runEvents: event } of stream) {
    if (event.__typename !== 'Event') continue;
    const what = event.data?.step ? `step ${event.data.step}: ${event.to}` : (event.to ?? '');
    say(`   event ${String(event.seq).padStart(4)}  ${event.type?.padEnd(25)} ${what}`);
  }
}

async function tellOutput(client: Api, id: string, say: (text: string) => void): Promise<void> {
  type Item = { runLogs: { __typename: string; step?: string | null; text?: string } };
  const stream = client.subscribe<Item>(
    `subscription ($id: ID!) { runLogs(id: $id) { __typename ... on LogLine { step text } } }`,
    { id },
  );
  for await (const { runLogs: line } of stream) {
    if (line.__typename === 'LogLine') say(`     log   ${(line.step ?? '').padEnd(8)}  ${line.text}`);
  }
}

async function addressOf(client: Api, id: string): Promise<string> {
  const { node } = await client.query<{ node: { address: string | null } }>(
    `query ($id: ID!) { node(id: $id) { ... on Application { address } } }`,
    { id },
  );
  expect(node.address !== null, 'the application has no address');
  return node.address;
}

async function answerOf(address: string, version: string): Promise<string> {
  const response = await fetch(`${address}/`);
  const body = await response.text();
  expect(
    response.status === 200 && body.includes(`"version":"${version}"`),
    `${address} answered ${response.status} ${body}`,
  );
  return `${response.status} ${body.trim()}`;
}
