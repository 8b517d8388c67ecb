import { createHash } from 'node:crypto';
import type { Auth } from '../../support/client.ts';
import { data, send } from '../../support/client.ts';
import { until } from '../../support/embedded.ts';

/** A test gives up after this long, milliseconds. */
export const livenessMs = 60_000;

export const sha256 = (bytes: Buffer | string): string => createHash('sha256').update(bytes).digest('hex');

/** Some answer of a mutation: which type, and what was asked of it. */
export type Outcome = { readonly __typename: string; readonly code?: string; readonly message?: string } & Record<
  string,
  never
>;

/** One mutation with its input; `ask` is what is selected of its success type beside errors. */
export async function mutate<T = Outcome>(
  url: string,
  name: string,
  input: object,
  ask: string,
  who: Auth,
): Promise<T> {
  const type = `${name.charAt(0).toUpperCase()}${name.slice(1)}`;
  const document = `mutation ($input: ${type}Input!) { ${name}(input: $input) {
    __typename ... on ${type}Success { ${ask} } ... on Error { code message } ${extra[name] ?? ''} } }`;
  return (await data<Record<string, T>>(url, document, { input }, who))[name] as T;
}

/** What is asked of errors. */
const extra: Readonly<Record<string, string>> = {
  uploadDocument:
    '... on DuplicateDocument { duplicateOf { id } } ... on DocumentQuotaExceeded { quota limit actual } ... on DocumentBeyondLimits { bound most }',
  updateConfiguration:
    '... on ConfigurationConflict { currentVersion } ... on ValidationError { issues { path message } }',
  createConfiguration: '... on ValidationError { issues { path message } }',
  previewExtraction: '... on ValidationError { issues { path message } }',
  submitExtractionJob: '... on DocumentQuarantined { problem } ... on NotFound { id }',
};

/** Announces a file and puts its bytes to the address. @returns the global id of the artifact */
export async function put(
  url: string,
  who: Auth,
  workspaceId: string,
  file: { readonly name: string; readonly bytes: Buffer | string; readonly contentType?: string },
  announceOnly = false,
): Promise<string> {
  const bytes = Buffer.from(file.bytes);
  const contentType = file.contentType ?? 'application/octet-stream';
  const input = { workspaceId, name: file.name, contentType, sizeBytes: bytes.length, sha256: sha256(bytes) };
  const made = await mutate<{
    __typename: string;
    message?: string;
    artifact: { id: string };
    upload: { url: string; method: string };
  }>(url, 'createUpload', input, 'artifact { id } upload { url method }', who);
  if (made.__typename !== 'CreateUploadSuccess') throw new Error(made.message);
  if (announceOnly) return made.artifact.id;
  const { status } = await fetch(made.upload.url, {
    method: made.upload.method,
    body: bytes,
    headers: { 'content-type': contentType },
  });
  if (status !== 201) throw new Error(`PUT answered ${status}`);
  return made.artifact.id;
}

export interface UploadedDocument {
  readonly id: string;
  readonly name: string;
  readonly format: string | null;
  readonly status: string;
  readonly problem: string | null;
  readonly contentType: string;
  readonly sizeBytes: number;
  readonly sha256: string;
}

const documentFields = 'id name format status problem contentType sizeBytes sha256';

/** Registers an artifact as a document. */
export const register = (url: string, who: Auth, artifactId: string, more: object = {}) =>
  mutate<
    Outcome & {
      document: UploadedDocument;
      eventCursor: string | null;
      quota?: string;
      limit?: number | string;
      most?: number;
    }
  >(url, 'uploadDocument', { artifactId, ...more }, `document { ${documentFields} } eventCursor`, who);

/** A document, of its bytes. */
export async function upload(
  url: string,
  who: Auth,
  workspaceId: string,
  name: string,
  bytes: Buffer | string,
  contentType?: string,
): Promise<UploadedDocument> {
  const artifactId = await put(url, who, workspaceId, { name, bytes, ...(contentType ? { contentType } : {}) });
  const answer = await register(url, who, artifactId);
  if (answer.__typename !== 'UploadDocumentSuccess') throw new Error(`${answer.__typename}: ${answer.message}`);
  return answer.document;
}

/** Asks for an extraction. @returns the global id of the job */
export async function submit(url: string, who: Auth, input: object): Promise<string> {
  const answer = await mutate<Outcome & { job: { id: string } }>(url, 'submitExtractionJob', input, 'job { id }', who);
  if (answer.__typename !== 'SubmitExtractionJobSuccess') throw new Error(`${answer.__typename}: ${answer.message}`);
  return answer.job.id;
}

export interface JobState {
  readonly id: string;
  readonly status: string;
  readonly phase: string;
  readonly statusReason: string | null;
  readonly errorCode: string | null;
  readonly progress: number | null;
  readonly unitsDone: number;
  readonly unitsTotal: number | null;
  readonly unit: string | null;
  readonly tableCount: number;
  readonly rowCount: number;
  readonly cellCount: number;
  readonly reviewCount: number;
  readonly attempt: number;
  readonly steps: readonly { readonly name: string; readonly status: string }[];
}

export async function jobOf(url: string, who: Auth, id: string): Promise<JobState> {
  const answer = await data<{ node: JobState }>(
    url,
    `query ($id: ID!) { node(id: $id) { ... on ExtractionJob { id status phase statusReason errorCode progress unitsDone
      unitsTotal unit tableCount rowCount cellCount reviewCount attempt steps { name status } } } }`,
    { id },
    who,
  );
  return answer.node;
}

/** Waits until a job satisfies this. */
export async function jobWhere(
  url: string,
  who: Auth,
  id: string,
  holds: (job: JobState) => boolean,
  timeoutMs = livenessMs,
): Promise<JobState> {
  let job = await jobOf(url, who, id);
  await until(
    'the job is as expected',
    async () => {
      job = await jobOf(url, who, id);
      return holds(job);
    },
    timeoutMs,
  );
  return job;
}

export const isOver = ({ status }: { status: string }): boolean =>
  ['SUCCEEDED', 'FAILED', 'CANCELED', 'TIMED_OUT'].includes(status);

/** A CSV file of so many rows. */
export const csv = (rows: number, salt = ''): string =>
  ['id,name,amount', ...Array.from({ length: rows }, (_, i) => `${i + 1},name ${salt}${i},${i}.25`)].join('\n');

export { send };
