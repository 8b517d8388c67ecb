import { extractionErrorSentences } from '../../../integrations/extractors/index.ts';

/** Of documents that were registered by an earlier version of the server. */
const formerCodes: Readonly<Record<string, string>> = { DOCUMENT_TOO_LARGE: 'DOCUMENT_BEYOND_LIMITS' };
const sentences: Readonly<Record<string, string>> = {
  ...extractionErrorSentences,
  DOCUMENT_MISLABELED: 'Its bytes are something else than its name or its media type says.',
};

/** Why a document is in quarantine, for a person. */
export const sentenceOf = (problem: string): string =>
  sentences[formerCodes[problem] ?? problem] ?? 'It is not what it claims to be, or cannot be read.';
