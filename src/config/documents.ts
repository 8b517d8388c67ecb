import { optional, secretText, setting, webUrl, whole } from './kit.ts';

export const documents = {
  SWITCHYARD_MAX_DOCUMENT_BYTES: setting({
    group: 'Documents',
    description: 'Largest file that can be registered as a document.',
    unit: 'bytes',
    default: '104857600',
    example: '20971520',
    schema: whole(1),
  }),
  SWITCHYARD_MAX_DOCUMENTS: setting({
    group: 'Documents',
    description: 'Most uploaded documents of a workspace.',
    unit: 'documents',
    default: '10000',
    example: '1000',
    schema: whole(0),
  }),
  SWITCHYARD_MAX_DOCUMENTS_BYTES: setting({
    group: 'Documents',
    description: 'Most bytes of the uploaded documents of a workspace, together.',
    unit: 'bytes',
    default: '10737418240',
    example: '1073741824',
    schema: whole(0),
  }),
  SWITCHYARD_MAX_STORED_CELLS: setting({
    group: 'Documents',
    description:
      'Most cells of the extracted tables of a workspace, together. A cell takes about 200 bytes of the database.',
    unit: 'cells',
    default: '50000000',
    example: '5000000',
    schema: whole(0),
  }),
  SWITCHYARD_MAX_CONCURRENT_EXTRACTIONS: setting({
    group: 'Documents',
    description: 'Most extractions of a workspace that are executed at once; more wait.',
    unit: 'extractions',
    default: '2',
    example: '8',
    schema: whole(1, 10_000),
  }),
  SWITCHYARD_EXTRACTOR_URL: optional({
    group: 'Documents',
    description:
      'A program of yours that finds tables in documents, for extraction configurations that ask for the extractor HTTP. docs/documents-extraction.md tells what it is sent and has to answer.',
    example: 'https://extractor.example.com/tables',
    schema: webUrl,
  }),
  SWITCHYARD_EXTRACTOR_KEY: optional({
    group: 'Documents',
    description: 'Sent to SWITCHYARD_EXTRACTOR_URL as a bearer token.',
    secret: true,
    example: 'output of: openssl rand -base64 48',
    schema: secretText(16),
  }),
  SWITCHYARD_EXTRACTION_MEMORY_MB: setting({
    group: 'Documents',
    description: 'Memory that the process may take that reads one document; it is ended when it takes more.',
    unit: 'MiB',
    default: '768',
    example: '1536',
    schema: whole(128, 65_536),
  }),
  SWITCHYARD_EXTRACTION_TIMEOUT_S: setting({
    group: 'Documents',
    description: 'Time that it may take to read one document; the time in which tables are stored is not counted.',
    unit: 'seconds',
    default: '600',
    example: '3600',
    schema: whole(1, 86_400),
  }),
} as const;
