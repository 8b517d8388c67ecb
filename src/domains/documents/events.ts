import { defineEvent } from '#kernel/events/define.ts';

export const documentUploaded = defineEvent<{ sha256: string; format: string | null; sizeBytes: number }>(
  'document.uploaded',
  { subject: 'Document', description: 'A file was registered as a document. `sizeBytes` in bytes.' },
);
export const documentProduced = defineEvent<{
  exportId: string;
  sha256: string;
  format: string | null;
  sizeBytes: number;
}>('document.produced', { subject: 'Document', description: 'An export made it. `sizeBytes` in bytes.' });
export const documentQuarantined = defineEvent<{ problem: string }>('document.quarantined', {
  subject: 'Document',
  description: 'It is not what it claims to be, or cannot be read: it can only be deleted.',
});
export const documentRemovalAsked = defineEvent('document.removalAsked', {
  subject: 'Document',
  description: 'It is being deleted: it is not shown any more, and its jobs are told to stop.',
});
export const documentDeleted = defineEvent<{ jobs: number; files: number }>('document.deleted', {
  subject: 'Document',
  description: 'It is gone, with its bytes, its jobs, its tables and what was exported of them.',
});
export const documentsExpired = defineEvent<{ documents: number; days: number }>('workspace.documentsExpired', {
  subject: 'Workspace',
  description: 'So many documents were older than the workspace keeps them, and are being deleted.',
});
export const documentRetentionSet = defineEvent<{ days: number | null }>('workspace.documentRetentionSet', {
  subject: 'Workspace',
  description: 'Somebody said for how many days documents are kept; null: for ever.',
});

export const documentModelSet = defineEvent<{ allowed: boolean }>('workspace.documentModelSet', {
  subject: 'Workspace',
  description: 'Whether the language model of the server may be told of its documents was decided.',
});

export const configurationCreated = defineEvent<{ version: number }>('extractionConfiguration.created', {
  subject: 'ExtractionConfiguration',
  description: 'The configuration was created.',
});
export const configurationUpdated = defineEvent<{ version: number }>('extractionConfiguration.updated', {
  subject: 'ExtractionConfiguration',
  description: 'It has another version, for jobs from now on, or another name.',
});
export const configurationArchived = defineEvent('extractionConfiguration.archived', {
  subject: 'ExtractionConfiguration',
  description: 'It was put away and takes no more jobs.',
});

export const outputsPersisted = defineEvent<{ tables: number; rows: number; cells: number; review: number }>(
  'extractionJob.outputsPersisted',
  {
    subject: 'ExtractionJob',
    description: 'All tables that it found are there. `review`: cells that a person should look at.',
  },
);

/** Of which job and document; texts are in the table's history. */
interface OfTable {
  readonly jobId: string;
  readonly documentId: string;
}
export const cellCorrected = defineEvent<OfTable & { row: number; column: number; version: number }>(
  'extractedTable.cellCorrected',
  { subject: 'ExtractedTable', description: 'Somebody gave a cell another text. `row` and `column` are from 0.' },
);
export const cellsConfirmed = defineEvent<OfTable & { cells: number }>('extractedTable.cellsConfirmed', {
  subject: 'ExtractedTable',
  description: 'Somebody looked at cells and found them right. `cells`: how many.',
});
export const tableExported = defineEvent<OfTable & { exportId: string; producedId: string; format: string }>(
  'extractedTable.exported',
  { subject: 'ExtractedTable', description: 'An export made a document of it; `producedId` is that document.' },
);
