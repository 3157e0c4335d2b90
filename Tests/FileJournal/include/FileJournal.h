// The library is preloaded, never called: its format is in the header of CFileJournal.
#pragma once
